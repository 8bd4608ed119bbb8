"""The tiny components that are CoSeR's own, and the arguments of a call that only it takes."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel

from diffusers_sr.coser.adapter import CoSeRAdapter
from diffusers_sr.coser.cfw import ControllableFeatureWrapping
from diffusers_sr.coser.cognition import CognitiveEncoder
from diffusers_sr.coser.controlnet import LatentControlNetModel
from tests.components import TEXT_DIM, randomise

DEFAULT_TILE_SIZE = 512
OWN_ARGUMENTS = [
    "cognitive_embedding",
    "reference_images",
    "num_references",
    "reference_guidance_scale",
    "cognition",
    "cfw_weight",
]


def parts(unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, Any]:
    controlnet = randomise(LatentControlNetModel.for_unet(unet))
    return {
        "controlnet": controlnet,
        "adapter": randomise(CoSeRAdapter.from_hosts(unet, controlnet)),
        "cognitive_encoder": tiny_cognitive_encoder(),
        "cfw": randomise(ControllableFeatureWrapping.from_vae(vae, num_rrdbs=1, growth_channels=4)),
    }


def inputs() -> dict[str, Any]:
    return {}


def tiny_cognitive_encoder() -> CognitiveEncoder:
    """A cognitive encoder of three queries as wide as the text, whose CLIP sees 28×28 pixels in five tokens."""
    clip = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 16, "num_hidden_layers": 2}
    qformer = {"hidden_size": TEXT_DIM, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return randomise(
        CognitiveEncoder(
            num_queries=3,
            srresnet_channels=8,
            srresnet_blocks=1,
            vision_config={**clip, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
            qformer_config={**qformer, "cross_attention_frequency": 2},
        )
    )
