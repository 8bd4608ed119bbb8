"""Features of a ControlNet that attention reads: how they are made, and which of them each transformer reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ControlNetModel

from .sites import Host

MIDDLE = -1


def control_features(
    controlnet: ControlNetModel,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    text: torch.Tensor,
    condition: torch.Tensor,
    conditioning_scale: float = 1.0,
) -> list[torch.Tensor]:
    """Run the ControlNet for its residuals: those of the down blocks, and then the middle one.

    Args:
        latents: noisy, `[B, channels, h, w]`.
        text: `[B, tokens, channels]`.
        condition: an image for the ControlNet to embed; or, as high as the latents, its embedding, or condition
            latents `[B, channels, h, n * w]`: `n` of them side by side, for which the noisy ones are repeated.
    """
    side_by_side = condition.shape[-1] // latents.shape[-1] if condition.shape[-2] == latents.shape[-2] else 1
    down, middle = controlnet(
        latents.repeat(1, 1, 1, side_by_side),
        timestep,
        encoder_hidden_states=text,
        controlnet_cond=condition,
        conditioning_scale=conditioning_scale,
        return_dict=False,
    )
    return [*down, middle]


def decoder_features(unet: Host, controlnet: Host) -> dict[str, int]:
    """Map each residual block of the decoder, such as "up_blocks.0.resnets.0", to the control feature it reads.

    It is the feature that belongs to its skip connection: the decoder's n-th block reads the n-th from the end of the
    features of the down blocks.
    """
    resnets = [
        f"up_blocks.{block}.resnets.{layer}"
        for block, up_block in enumerate(unet.up_blocks)
        for layer in range(len(up_block.resnets))
    ]
    last = len(controlnet.controlnet_down_blocks) - 1
    return {resnet: last - number for number, resnet in enumerate(resnets)}


def control_sites(unet: Host, controlnet: Host) -> dict[str, dict[str, Any]]:
    """Find the first transformer block of each text transformer in middle and decoder, by its name in the UNet.

    In the decoder it reads the control feature of the residual block before it; see `decoder_features`.

    Returns:
        For each its `channels`, `num_attention_heads` and `norm_num_groups`, and the feature it reads: the
        `control_index` among those of the down blocks, where -1 is the middle one, and the `control_channels`.
    """
    transformers = {"mid_block.attentions.0": MIDDLE} if getattr(unet.mid_block, "attentions", None) else {}
    for resnet, index in decoder_features(unet, controlnet).items():
        block, _, layer = resnet.partition(".resnets.")
        if hasattr(unet.get_submodule(block), "attentions"):
            transformers[f"{block}.attentions.{layer}"] = index
    sites = {}
    for name, index in transformers.items():
        transformer = unet.get_submodule(name)
        control = controlnet.controlnet_mid_block if index == MIDDLE else controlnet.controlnet_down_blocks[index]
        sites[f"{name}.transformer_blocks.0"] = {
            "channels": transformer.inner_dim,
            "control_channels": control.out_channels,
            "num_attention_heads": transformer.num_attention_heads,
            "norm_num_groups": transformer.norm.num_groups,
            "control_index": index,
        }
    return sites


def feature_of_site(features: Sequence[torch.Tensor], name: str, site: str, options: dict[str, Any]) -> torch.Tensor:
    """Pick the feature that a site reads.

    Args:
        features: from `control_features`.
        name: what the error calls the features.
        site: name of the site, for the error.
        options: those of the site, from `control_sites`.

    Raises:
        ValueError: if there is no such feature, or it has another number of channels.
    """
    index, channels = options["control_index"], options["control_channels"]
    if not -len(features) <= index < len(features) or features[index].shape[1] != channels:
        raise ValueError(
            f"`{name}` has features {[list(feature.shape) for feature in features]}, but {site!r} reads number "
            f"{index} with {channels} channels: give all residuals of the ControlNet this adapter was trained with, "
            "those of the down blocks and then that of the middle."
        )
    return features[index]


def feature_tokens(feature: torch.Tensor) -> torch.Tensor:
    """Make tokens of a feature, `[B, C, h, w] -> [B, h * w, C]`."""
    return feature.flatten(2).transpose(1, 2)
