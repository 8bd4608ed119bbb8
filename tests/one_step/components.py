"""The tiny components of one-step pipelines."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from diffusers_sr.one_step.lora import LoraSets, layer_sizes
from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.one_step.prediction import PIXEL, SEMANTIC
from diffusers_sr.one_step.scheduler import OneStepScheduler
from diffusers_sr.one_step.stored_prompt import StoredPrompt
from tests.components import TEXT_DIM, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

DEFAULT_TILE_SIZE = 768
OWN_ARGUMENTS = ["tags", "pixel_scale", "semantic_scale"]
MODULES = ("to_q", "to_v", "ff.net.2", "conv1", "conv_in", "conv_out")


def parts(unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, Any]:
    sets = {PIXEL: (lora_set(unet, 4), 8.0), SEMANTIC: (lora_set(unet, 2), 8.0)}
    prompt = StoredPrompt(77, TEXT_DIM)
    torch.nn.init.normal_(prompt.embedding)
    return {
        "scheduler": OneStepScheduler(),
        "lora": LoraSets.from_state_dicts(sets),
        "stored_prompt": prompt,
        "tagger": None,
    }


def inputs() -> dict[str, Any]:
    return {}


def lora_set(unet: UNet2DConditionModel, rank: int) -> dict[str, torch.Tensor]:
    """Random LoRA weights for attention, feed-forward and convolutions of a UNet."""
    weights = {}
    for path, module in unet.named_modules():
        if path.endswith(MODULES):
            inputs, outputs, *kernel = layer_sizes(module) or []
            weights[f"{path}.lora_A.weight"] = torch.randn(rank, inputs, *kernel) * 0.1
            weights[f"{path}.lora_B.weight"] = torch.randn(outputs, rank, *[1] * len(kernel)) * 0.1
    return weights


def pisa(**changes: Any) -> OneStepPipeline:
    """A pipeline like PiSA-SR's: two LoRA sets with alpha 8, and a stored prompt instead of a text encoder."""
    torch.manual_seed(0)
    unet, vae = tiny_unet().eval(), tiny_vae().eval()
    pipeline = OneStepPipeline(**{"vae": vae, "unet": unet, **parts(unet, vae)} | changes)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def with_text_encoder(**changes: Any) -> OneStepPipeline:
    tokenizer = tiny_tokenizer()
    return pisa(tokenizer=tokenizer, text_encoder=tiny_text_encoder(tokenizer).eval(), **changes)
