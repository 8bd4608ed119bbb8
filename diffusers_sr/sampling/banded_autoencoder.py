"""Encode and decode with Stable Diffusion's autoencoder in bounded memory: equal to the whole, whatever the size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from .bands import Bands

AtLevel = Callable[[int, torch.Tensor, Bands], torch.Tensor]
"""Is called with the number of a level (level `l` has `1 / 2**l` of the image's height and width) and the features
after its residual blocks, and returns those to go on with."""


def encode_in_bands(
    vae: AutoencoderKL, images: torch.Tensor, tile_size: int, at_level: AtLevel | None = None
) -> torch.Tensor:
    """Compute the moments of `vae.encode`, `[B, 2 * channels, h, w]`, of images `[B, 3, H, W]` in [-1, 1].

    Args:
        tile_size: a band has as many values as a square of this side has at the first level of the autoencoder.
        at_level: may see and replace features of the encoder.
    """
    bands = bands_for(vae, images, tile_size)
    return torch.cat([_encode(vae, image, bands, at_level) for image in images.split(1)]).to(images.device)


def decode_in_bands(
    vae: AutoencoderKL, latents: torch.Tensor, tile_size: int, at_level: AtLevel | None = None
) -> torch.Tensor:
    """Decode unscaled latents `[B, channels, h, w]` as `vae.decode` does, to `[B, 3, H, W]`.

    Args:
        tile_size: as in `encode_in_bands`.
        at_level: may see and replace features of the decoder.
    """
    bands = bands_for(vae, latents, tile_size)
    return torch.cat([_decode(vae, latent, bands, at_level) for latent in latents.split(1)]).to(latents.device)


def bands_for(vae: AutoencoderKL, images: torch.Tensor, tile_size: int) -> Bands:
    """Make bands of a size for an autoencoder, on the device of the images."""
    return Bands(tile_size**2 * vae.config.block_out_channels[0], images.device)


# The decorator brings an offloaded autoencoder to its device, as it does for the autoencoder's own methods.
@apply_forward_hook
def _encode(vae: AutoencoderKL, image: torch.Tensor, bands: Bands, at_level: AtLevel | None) -> torch.Tensor:
    encoder: Any = unwrap_module(vae.encoder)
    states = bands.run([encoder.conv_in], image)
    for level, block in enumerate(encoder.down_blocks):
        states = _run_layers(block, states, bands)
        if at_level is not None:
            states = at_level(level, states, bands)
        for downsampler in block.downsamplers or ():
            states = bands.run([downsampler], states)
    states = _run_layers(encoder.mid_block, states, bands)
    states = bands.run([encoder.conv_norm_out, encoder.conv_act, encoder.conv_out], states)
    return states if vae.quant_conv is None else bands.run([vae.quant_conv], states)


@apply_forward_hook
def _decode(vae: AutoencoderKL, latents: torch.Tensor, bands: Bands, at_level: AtLevel | None) -> torch.Tensor:
    decoder: Any = unwrap_module(vae.decoder)
    states = latents if vae.post_quant_conv is None else bands.run([vae.post_quant_conv], latents)
    states = bands.run([decoder.conv_in], states)
    states = _run_layers(decoder.mid_block, states, bands)
    upsamplers: Sequence[nn.Module] = ()
    for index, block in enumerate(decoder.up_blocks):
        states = _run_layers(block, states, bands, upsamplers)
        if at_level is not None:
            states = at_level(len(decoder.up_blocks) - 1 - index, states, bands)
        upsamplers = block.upsamplers or ()
    return bands.run([decoder.conv_norm_out, decoder.conv_act, decoder.conv_out], states)


def _run_layers(block: Any, states: torch.Tensor, bands: Bands, upsamplers: Sequence[nn.Module] = ()) -> torch.Tensor:
    """Run the residual blocks and the attention of a block.

    Upsampled features, four times as many as there were, are made band by band and are not kept: the upsampler of the
    block before runs with the first residual block.
    """
    for layer in _layers(block):
        if isinstance(layer, Attention):
            states = bands.attend(layer, states)
        else:
            states = bands.run([*upsamplers, layer], states, overwrite=True)
            upsamplers = ()
    return states


def _layers(block: Any) -> list[nn.Module]:
    """List residual blocks and attention in the order in which they run."""
    attentions = list(getattr(block, "attentions", ()))
    # In the middle there is one residual block more, which comes first; otherwise attention follows each.
    first = len(block.resnets) - len(attentions) if attentions else 0
    pairs = zip_longest(block.resnets[first:], attentions)
    order = (pair[::-1] if first else pair for pair in pairs)
    return [layer for layer in (*block.resnets[:first], *chain.from_iterable(order)) if layer is not None]
