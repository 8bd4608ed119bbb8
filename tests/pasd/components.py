"""The tiny components that are PASD's own, and the arguments of a call that only it takes."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel

from tests.xpsr.components import parts as xpsr_parts

DEFAULT_TILE_SIZE = 2560
OWN_ARGUMENTS = [
    "high_level_prompt",
    "captioner",
    "quality_prompt",
    "caption_overflow",
    "added_noise_level",
]


def parts(unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, Any]:
    """XPSR's, without semantic fusion."""
    return xpsr_parts(unet, vae, fusion=False)


def inputs() -> dict[str, Any]:
    return {"high_level_prompt": "a tree."}
