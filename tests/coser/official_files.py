"""CoSeR's official files at a tiny size: how they are written, changed and converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

from diffusers_sr.coser.cfw import ControllableFeatureWrapping
from diffusers_sr.coser.cognition import CognitiveEncoder
from diffusers_sr.coser.convert import convert
from diffusers_sr.coser.convert_cognition import official_key
from tests.components import TEXT_DIM
from tests.coser.cognitive_encoders import VISION
from tests.coser.official_networks import Tensors

UNET, CONTROLNET = "model.diffusion_model.", "structcond_stage_model."


def official_qformer(encoder: CognitiveEncoder) -> Tensors:
    """SRResNet and Q-Former, with BERT's text half and the frozen CLIP."""
    weights = {official_key(key): tensor for key, tensor in encoder.state_dict().items() if "clip." not in key}
    weights["global_adapter.Qformer.embeddings.word_embeddings.weight"] = torch.zeros(9, TEXT_DIM)
    weights["global_adapter.Qformer.encoder.layer.0.output.dense.weight"] = torch.zeros(3)
    weights["cond_stage_model.model.visual.proj"] = torch.zeros(16, 12)
    return weights


def official_cfw(cfw: ControllableFeatureWrapping) -> Tensors:
    """StableSR's autoencoder: the fusion layers, and something of the rest."""
    names = {"resnet_in": "encode_enc_1", "rrdbs": "encode_enc_2", "resnet_out": "encode_enc_3"}
    weights = {"encoder.conv_in.weight": torch.zeros(8, 3, 3, 3), "loss.logvar": torch.zeros(())}
    for key, tensor in cfw.state_dict().items():
        _, level, part, rest = key.split(".", 3)
        rest = rest.replace("conv_shortcut", "conv_out")
        weights[f"decoder.fusion_layer_{level}.{names[part]}.{rest}"] = tensor
    return weights


def save_clip(vision: CLIPVisionModelWithProjection, folder: Path) -> None:
    """A whole CLIP as LAION's repositories hold it: the vision model's configuration lacks the projection."""
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=VISION["projection_dim"])
    clip = CLIPModel(config)
    assert not clip.load_state_dict(vision.state_dict(), strict=False).unexpected_keys
    clip.save_pretrained(folder)
    stored = json.loads((folder / "config.json").read_text())
    del stored["vision_config"]["projection_dim"]
    (folder / "config.json").write_text(json.dumps(stored))


def convert_all(official: Path, output: Path, **changes: Any) -> None:
    arguments = {
        "checkpoint": official / "coser.ckpt",
        "qformer": official / "qformer.ckpt",
        "cfw": official / "cfw.ckpt",
        "base": str(official / "base"),
        "clip": str(official / "clip"),
        **changes,
    }
    convert(output=output, **arguments)


def changed(path: Path, folder: Path, changes: dict[str, torch.Tensor | None]) -> Path:
    """A copy of a checkpoint, with some tensors set or taken away."""
    weights = {**torch.load(path)["state_dict"], **changes}
    target = folder / path.name
    torch.save({"state_dict": {key: tensor for key, tensor in weights.items() if tensor is not None}}, target)
    return target


def without_stock_unet(path: Path, folder: Path) -> Path:
    """The checkpoint as it may be too: with what was trained alone."""
    stock = [key for key in torch.load(path)["state_dict"] if key.startswith(UNET) and "_lna" not in key]
    return changed(path, folder, dict.fromkeys(stock))


def assert_equal_weights(model: nn.Module, expected: nn.Module) -> None:
    weights, expected_weights = model.state_dict(), expected.state_dict()
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[key], expected_weights[key]) for key in weights)
