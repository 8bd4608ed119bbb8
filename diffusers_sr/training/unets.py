"""New, small UNets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import Transformer2DModel, UNet2DConditionModel
from torch import nn

from ..sampling.autoencoder import pixels_per_latent
from .autoencoders import Autoencoder


def new_unet(
    vae: Autoencoder,
    resolution: int,
    block_out_channels: Sequence[int],
    layers_per_block: int,
    attention_head_dim: int,
    cross_attention_dim: int,
    attention_levels: int = 1,
) -> UNet2DConditionModel:
    """Make a UNet with random weights for the latents of an autoencoder.

    Args:
        vae: the autoencoder.
        resolution: side of the training crops in pixels.
        block_out_channels: channels of each level; all except the last halve the size.
        layers_per_block: residual layers of each level on the way down; on the way up there is one more.
        attention_head_dim: channels of an attention head.
        cross_attention_dim: channels of the text's embeddings.
        attention_levels: how many of the last levels have attention; at the first ones its cost, which grows with the
            square of the photo's area, would be that of all the rest. Without any, the UNet takes a prompt and does
            nothing with it.
    """
    channels = tuple(block_out_channels)
    others = len(channels) - attention_levels
    return UNet2DConditionModel(
        sample_size=resolution // pixels_per_latent(vae),
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        down_block_types=("DownBlock2D",) * others + ("CrossAttnDownBlock2D",) * attention_levels,
        mid_block_type="UNetMidBlock2DCrossAttn" if attention_levels else "UNetMidBlock2D",
        up_block_types=("CrossAttnUpBlock2D",) * attention_levels + ("UpBlock2D",) * others,
        block_out_channels=channels,
        layers_per_block=layers_per_block,
        attention_head_dim=tuple(width // attention_head_dim for width in channels),
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=8,
        use_linear_projection=True,
    )


def begin_as(unet: UNet2DConditionModel, other: UNet2DConditionModel) -> UNet2DConditionModel:
    """Give a new UNet with attention the weights of one without; what it has besides adds nothing at first.

    Raises:
        ValueError: if levels or channels differ.
    """
    own, others = unet.state_dict(), other.state_dict()
    if any(name not in own or own[name].shape != weight.shape for name, weight in others.items()):
        raise ValueError(
            f"A UNet of {unet.config.block_out_channels} channels, {unet.config.layers_per_block} layers and "
            f"{unet.config.in_channels} latent channels cannot begin as one of {other.config.block_out_channels}, "
            f"{other.config.layers_per_block} and {other.config.in_channels}: give it the same ones."
        )
    unet.load_state_dict(others, strict=False)
    added = [f"{name}.proj_out" for name, each in unet.named_modules() if isinstance(each, Transformer2DModel)]
    for name in (*added, "mid_block.resnets.1.conv2"):  # the middle's second layer comes with its attention
        if f"{name}.weight" not in others:
            for parameter in unet.get_submodule(name).parameters():
                nn.init.zeros_(parameter)
    return unet


def predict_times(unet: UNet2DConditionModel, factor: float) -> UNet2DConditionModel:
    """Multiply a UNet's prediction by a factor."""
    with torch.no_grad():
        for parameter in unet.conv_out.parameters():
            parameter.mul_(factor)
    return unet


def predict_nothing(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Set the last layer to zero, so that the UNet's prediction is zero until it is trained."""
    return predict_times(unet, 0)
