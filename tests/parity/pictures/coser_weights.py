"""Load CoSeR's recorded weights: one file in the layout of CompVis, and the networks beside the other vectors.

What the converter takes from the Hub, CLIP and the VAE, is in that file too, and is brought to its usual form here.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from diffusers_sr import CoSeRPipeline
from diffusers_sr.coser import convert_networks
from diffusers_sr.coser.convert import load_cfw, new_scheduler
from diffusers_sr.coser.convert_cognition import cognitive_encoder_from_official

Tensors = dict[str, torch.Tensor]
HEAD_CHANNELS = 16
CLIP_PREFIX = "cond_stage_model.model."
NORMS = {"ln_1": "layer_norm1", "ln_2": "layer_norm2"}
LINEARS = {"attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}


def load(weights: Path, folder: Path) -> CoSeRPipeline:
    """Load the pipeline; `folder` is for temporary files."""
    official = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(weights / "coser.safetensors").items()
    }
    sizes = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    unet, controlnet, adapter = load_networks(weights)
    save_file(
        {name: tensor.float() for name, tensor in load_file(weights / "cfw.safetensors").items()},
        folder / "cfw.safetensors",
    )
    return CoSeRPipeline(
        vae=load_vae(official, sizes),
        text_encoder=load_text_encoder(official, sizes),
        tokenizer=load_tokenizer(weights, folder),
        unet=unet,
        controlnet=controlnet,
        adapter=adapter,
        scheduler=new_scheduler(),
        cognitive_encoder=cognitive_encoder_from_official(official, load_vision_model(official, sizes)),
        cfw=load_cfw(folder / "cfw.safetensors"),
    )


def load_networks(weights: Path) -> tuple[Any, Any, Any]:
    """Load UNet, ControlNet and adapter of the vectors `coser/A`, from COSER_PARITY_VECTORS or `../coser`."""
    vectors = os.environ.get("COSER_PARITY_VECTORS")
    folder = (Path(vectors) if vectors else weights.parents[2] / "coser") / "A"
    official: dict[str, Tensors] = {}
    for name in ("unet", "controlnet"):
        with np.load(folder / f"{name}_state_dict.npz") as arrays:
            official[name] = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    with patch.object(convert_networks, "HEAD_CHANNELS", HEAD_CHANNELS):
        return convert_networks.networks_from_official(
            official["unet"],
            official["controlnet"],
            convert_networks.unet_config_of(convert_networks.split_unet(official["unet"])[0], folder),
            convert_networks.controlnet_config_of(official["controlnet"], folder),
            folder,
        )


def load_vae(official: Tensors, sizes: dict[str, Any]) -> AutoencoderKL:
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=sizes["vae"],
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
    )
    own = {name: tensor for name, tensor in official.items() if name.startswith("first_stage_model.")}
    vae.load_state_dict(convert_ldm_vae_checkpoint(own, vae.config))
    return vae.eval()


def load_text_encoder(official: Tensors, sizes: dict[str, Any]) -> CLIPTextModel:
    """Load all layers of the text tower except the last, as Stable Diffusion 2 does."""
    width, layers = sizes["width"], sizes["text_layers"] - 1
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=sizes["vocab"],
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=sizes["text_heads"],
            hidden_act="gelu",
            pad_token_id=0,
            bos_token_id=49406,
            eos_token_id=49407,
        )
    )
    words = torch.zeros(sizes["vocab"], width)  # only the rows that were used are stored
    words[official["token_rows"]] = official[f"{CLIP_PREFIX}token_embedding.weight"]
    tensors = blocks(official, f"{CLIP_PREFIX}transformer.", layers) | {
        "embeddings.token_embedding.weight": words,
        "embeddings.position_embedding.weight": official[f"{CLIP_PREFIX}positional_embedding"],
    }
    tensors |= norm(official, f"{CLIP_PREFIX}ln_final", "final_layer_norm")
    return filled(model, tensors, "text_model.")


def load_vision_model(official: Tensors, sizes: dict[str, Any]) -> CLIPVisionModelWithProjection:
    width, prefix = sizes["vision_width"], f"{CLIP_PREFIX}visual."
    model = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=sizes["width"],
            num_hidden_layers=sizes["vision_layers"],
            num_attention_heads=width // HEAD_CHANNELS,
            patch_size=14,
            hidden_act="gelu",
        )
    )
    tensors = blocks(official, f"{prefix}transformer.", sizes["vision_layers"]) | {
        "embeddings.class_embedding": official[f"{prefix}class_embedding"],
        "embeddings.position_embedding.weight": official[f"{prefix}positional_embedding"],
        "embeddings.patch_embedding.weight": official[f"{prefix}conv1.weight"],
    }
    tensors |= norm(official, f"{prefix}ln_pre", "pre_layrnorm") | norm(official, f"{prefix}ln_post", "post_layernorm")
    model.visual_projection.weight.data = official[f"{prefix}proj"].T.contiguous()
    return filled(model, tensors, "vision_model.", left=["visual_projection.weight"])


def blocks(official: Tensors, prefix: str, count: int) -> Tensors:
    """The transformer blocks of open_clip by the names of transformers, which has queries, keys and values apart."""
    tensors: Tensors = {}
    for index in range(count):
        old, new = f"{prefix}resblocks.{index}.", f"encoder.layers.{index}."
        for kind in ("weight", "bias"):
            parts = official[f"{old}attn.in_proj_{kind}"].chunk(3)
            tensors |= {f"{new}self_attn.{name}_proj.{kind}": part for name, part in zip("qkv", parts, strict=True)}
            for theirs, ours in {**NORMS, **LINEARS}.items():
                tensors[f"{new}{ours}.{kind}"] = official[f"{old}{theirs}.{kind}"]
    return tensors


def norm(official: Tensors, old: str, new: str) -> Tensors:
    return {f"{new}.{kind}": official[f"{old}.{kind}"] for kind in ("weight", "bias")}


def filled(model: Any, tensors: Tensors, prefix: str, left: list[str] | None = None) -> Any:
    """Load all weights of a model, whose names may begin with `prefix`."""
    own = model.state_dict()
    named = {name if name in own else prefix + name: tensor for name, tensor in tensors.items()}
    missing, unexpected = model.load_state_dict(named, strict=False)
    missing = [name for name in missing if not name.endswith("position_ids") and name not in (left or [])]
    if missing or unexpected:
        raise ValueError(f"missing: {missing}, unexpected: {unexpected}")
    return model.eval()


def load_tokenizer(weights: Path, folder: Path) -> CLIPTokenizer:
    if (weights / "tokenizer").is_dir():
        return CLIPTokenizer.from_pretrained(weights / "tokenizer")
    shutil.unpack_archive(weights / "tokenizer.tar.xz", folder / "tokenizer", filter="data")
    return CLIPTokenizer.from_pretrained(folder / "tokenizer")
