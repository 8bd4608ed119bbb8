"""The tiny components that are XPSR's own, and the arguments of a call that only it takes."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from diffusers_sr.xpsr.adapter import XPSRAdapter
from tests.components import TEXT_DIM, randomise, tiny_controlnet

DEFAULT_TILE_SIZE = 2560
OWN_ARGUMENTS = [
    "high_level_prompt",
    "captioner",
    "quality_prompt",
    "caption_overflow",
    "added_noise_level",
    "low_level_prompt",
    "low_level_prompt_embeds",
    "negative_low_level_prompt",
    "negative_low_level_prompt_embeds",
    "guide_low_level",
]


def parts(unet: UNet2DConditionModel, vae: AutoencoderKL, fusion: bool = True) -> dict[str, Any]:
    controlnet = tiny_controlnet()
    return {
        "controlnet": controlnet,
        "adapter": randomise(XPSRAdapter.from_hosts(unet, controlnet, fusion=fusion)),
    }


def inputs() -> dict[str, Any]:
    """A prompt of each kind; the low-level ones as embeddings, so that a call can do without a text encoder."""
    embeds = torch.randn(2, 1, 7, TEXT_DIM, generator=torch.Generator().manual_seed(0))
    return {
        "high_level_prompt": "a tree.",
        "low_level_prompt_embeds": embeds[0],
        "negative_low_level_prompt_embeds": embeds[1],
    }
