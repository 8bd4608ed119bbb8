"""The tiny components that are CasSR's own, and the arguments of a call that only it takes."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.cassr.adapter import CasSRAdapter
from tests.components import randomise, tiny_controlnet

DEFAULT_TILE_SIZE = 512
OWN_ARGUMENTS = [
    "reference_images",
    "activation",
    "activation_steps",
    "activation_guidance_scale",
    "reference_conditioning_scale",
]


def parts(unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, Any]:
    controlnet = tiny_controlnet()
    activation = randomise(SCEditAdapter.from_host(unet, hint_channels=(4, 8, 8, 8)))
    for embedding in (controlnet.controlnet_cond_embedding, activation.hint_embedding):
        for parameter in embedding.parameters():
            if parameter.ndim == 4:
                nn.init.kaiming_normal_(parameter)  # a reference is seen through nothing else
    return {
        "controlnet": controlnet,
        "adapter": randomise(CasSRAdapter.from_hosts(unet, controlnet)),
        "activation": activation,
    }


def inputs() -> dict[str, Any]:
    return {}
