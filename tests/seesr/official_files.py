"""SeeSR's official files at a tiny size: how they are written, changed and converted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from safetensors.torch import load_file, save_file

from diffusers_sr.seesr.convert import convert
from tests.seesr.components import REPRESENTATION_DIM

TAGS = ["abacus", "bridge", "cat"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def official_ram(seed: int = 0) -> dict[str, torch.Tensor]:
    """RAM's state dict at a tiny size: stages of 2 and 4 blocks, windows of 2 tokens, so images of 16 pixels."""
    shapes: dict[str, list[int]] = {
        "label_embed": [len(TAGS), REPRESENTATION_DIM],
        "visual_encoder.patch_embed.proj.weight": [8, 3, 4, 4],
        "visual_encoder.patch_embed.proj.bias": [8],
        "visual_encoder.patch_embed.norm.weight": [8],
        "visual_encoder.patch_embed.norm.bias": [8],
        "visual_encoder.layers.0.downsample.reduction.weight": [16, 32],
        "visual_encoder.layers.0.downsample.norm.weight": [32],
        "visual_encoder.layers.0.downsample.norm.bias": [32],
        "visual_encoder.norm.weight": [16],
        "visual_encoder.norm.bias": [16],
        "image_proj.weight": [REPRESENTATION_DIM, 16],
        "image_proj.bias": [REPRESENTATION_DIM],
        "wordvec_proj.weight": [12, REPRESENTATION_DIM],
        "wordvec_proj.bias": [12],
        "fc.weight": [1, 12],
        "fc.bias": [1],
    }
    for stage, depth, dim, heads in ((0, 2, 8, 2), (1, 4, 16, 4)):
        for block in range(depth):
            prefix = f"visual_encoder.layers.{stage}.blocks.{block}."
            shapes[f"{prefix}attn.relative_position_bias_table"] = [9, heads]
            for name, rows, columns in (
                ("attn.qkv", 3 * dim, dim),
                ("attn.proj", dim, dim),
                ("mlp.fc1", 4 * dim, dim),
                ("mlp.fc2", dim, 4 * dim),
            ):
                shapes[f"{prefix}{name}.weight"] = [rows, columns]
                shapes[f"{prefix}{name}.bias"] = [rows]
            for name in ("norm1", "norm2"):
                shapes[f"{prefix}{name}.weight"] = [dim]
                shapes[f"{prefix}{name}.bias"] = [dim]
    for layer in range(2):
        prefix = f"tagging_head.encoder.layer.{layer}."
        for name, rows, columns in (
            ("crossattention.self.query", 12, 12),
            ("crossattention.self.key", 12, REPRESENTATION_DIM),
            ("crossattention.self.value", 12, REPRESENTATION_DIM),
            ("crossattention.output.dense", 12, 12),
            ("intermediate.dense", 24, 12),
            ("output.dense", 12, 24),
        ):
            shapes[f"{prefix}{name}.weight"] = [rows, columns]
            shapes[f"{prefix}{name}.bias"] = [rows]
        for name in ("crossattention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{prefix}{name}.weight"] = [12]
            shapes[f"{prefix}{name}.bias"] = [12]
    generator = torch.Generator().manual_seed(seed)
    return {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def official_dape(ram: dict[str, torch.Tensor], rank: int = 8) -> dict[str, torch.Tensor]:
    """DAPE's state dict for `ram`, with the captioning half's keys, whose `lora_B` training leaves at zero."""
    generator = torch.Generator().manual_seed(1)
    dape = {}
    for key, weight in ram.items():
        fused = key.endswith("attn.qkv.weight")
        if not fused and not key.endswith(("self.query.weight", "self.key.weight")):
            continue
        rows, columns = weight.shape
        name = key.removesuffix("weight")
        dape[f"{name}lora_A"] = torch.randn(2 * rank if fused else rank, columns, generator=generator)
        dape[f"{name}lora_B"] = torch.randn(2 * rows // 3 if fused else rows, rank, generator=generator)
    for name in ("tag_encoder.encoder.layer.0.attention.self.query", "text_decoder.bert.encoder.layer.0.x.key"):
        dape[f"{name}.lora_A"] = torch.randn(rank, 12, generator=generator)
        dape[f"{name}.lora_B"] = torch.zeros(12, rank)
    return dape


def write_official_model(folder: Path, model: ModelMixin, transformers: torch.nn.Module) -> None:
    """One of the official model folders: its stock weights and the image attentions in one file."""
    folder.mkdir(parents=True)
    state_dict = dict(model.state_dict())
    for key, tensor in transformers.state_dict().items():
        match = re.fullmatch(r"(.+)__attentions__(\d+)\.(.+)", key)
        assert match is not None
        block, number, rest = match.groups()
        state_dict[f"{block.replace('__', '.')}.image_attentions.{number}.{rest}"] = tensor
    save_file(state_dict, folder / WEIGHTS)
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    config |= {
        "_class_name": type(model).__name__,
        "_diffusers_version": "0.21.4",
        "use_image_cross_attention": True,
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_official(folder: Path, parts: dict[str, Any]) -> None:
    """Write everything official: unet/, controlnet/, ram.pth, DAPE.pth, tags/, and a base/ of the same UNet."""
    write_official_model(folder / "unet", parts["unet"], parts["adapter"].unet)
    write_official_model(folder / "controlnet", parts["controlnet"], parts["adapter"].controlnet)
    ram = official_ram()
    captioning = {"tag_encoder.encoder.layer.0.attention.self.query.weight": torch.ones(12, 12)}
    buffers = {"visual_encoder.layers.0.blocks.1.attn_mask": torch.zeros(4, 4, 4)}
    torch.save({"model": {**ram, **captioning, **buffers}}, folder / "ram.pth")
    torch.save(official_dape(ram), folder / "DAPE.pth")
    (folder / "tags").mkdir()
    (folder / "tags" / "ram_tag_list.txt").write_text("\n".join(TAGS))
    (folder / "tags" / "ram_tag_list_threshold.txt").write_text("0.65\n0.8\n0.5\n")
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        parts[name].save_pretrained(folder / "base" / name)


def convert_all(official: Path, output: Path, **changes: object) -> None:
    arguments: dict[str, Any] = {
        "ram": official / "ram.pth",
        "dape": official / "DAPE.pth",
        "ram_tags": official / "tags",
        "base": str(official / "base"),
        **changes,
    }
    convert(official / "unet", official / "controlnet", output, **arguments)


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Set tensors of a model folder's weights, or take them away."""
    state_dict = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()  # it is mapped into memory
    for key, tensor in tensors.items():
        state_dict.pop(key, None)
        if tensor is not None:
            state_dict[key] = tensor
    save_file(state_dict, folder / WEIGHTS)
