"""New, small UNets."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import UNet2DConditionModel
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
    has_attention: bool = True,
) -> UNet2DConditionModel:
    """Make a UNet with random weights for the latents of an autoencoder.

    Args:
        vae: the autoencoder.
        resolution: side of the training crops in pixels.
        block_out_channels: channels of each level; all except the last halve the size.
        layers_per_block: residual layers of each level on the way down; on the way up there is one more.
        attention_head_dim: channels of an attention head.
        cross_attention_dim: channels of the text's embeddings.
        has_attention: whether the last level has attention. Others never have, as its cost grows with the square of
            the photo's area. Without any, the UNet takes a prompt and does nothing with it.
    """
    channels = tuple(block_out_channels)
    others = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=resolution // pixels_per_latent(vae),
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        down_block_types=("DownBlock2D",) * others + ("CrossAttnDownBlock2D" if has_attention else "DownBlock2D",),
        mid_block_type="UNetMidBlock2DCrossAttn" if has_attention else "UNetMidBlock2D",
        up_block_types=("CrossAttnUpBlock2D" if has_attention else "UpBlock2D",) + ("UpBlock2D",) * others,
        block_out_channels=channels,
        layers_per_block=layers_per_block,
        attention_head_dim=tuple(width // attention_head_dim for width in channels),
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=8,
        use_linear_projection=True,
    )


def predict_nothing(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Set the last layer to zero, so that the UNet's prediction is zero until it is trained."""
    for parameter in unet.conv_out.parameters():
        nn.init.zeros_(parameter)
    return unet
