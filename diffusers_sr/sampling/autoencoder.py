"""Encode images to latents and decode latents to images, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..image.tiling import Window, tiled_map
from .finite import Stage


def encode_tiles(vae: Any, image: torch.Tensor, windows: Sequence[Window], unit: int) -> torch.Tensor:
    """Encode an image `[B, 3, H, W]` in [0, 1].

    Args:
        vae: an autoencoder of diffusers.
        windows: the tiles, in latents.
        unit: pixels per latent.

    Returns:
        Unscaled: mean and logarithm of the variance of the posterior, `[B, 2 * channels, h, w]`; from an
        `AutoencoderTiny`, which has no posterior, the latents, `[B, channels, h, w]`.

    Raises:
        NotFiniteError: if the result is not finite.
    """

    def moments(tiles: torch.Tensor, _: int) -> torch.Tensor:
        encoded = vae.encode(tiles)
        result: torch.Tensor = encoded.latent_dist.parameters if hasattr(encoded, "latent_dist") else encoded.latents
        return result

    return Stage("encoding", vae).run(
        lambda: tiled_map(moments, (2 * image - 1).to(vae.dtype), windows, input_scale=unit)
    )


def decode_tiles(
    vae: Any,
    latents: torch.Tensor,
    windows: Sequence[Window],
    unit: int,
    decode_tile: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
    cfw: nn.Module | None = None,
) -> torch.Tensor:
    """Decode scaled latents `[B, channels, h, w]`.

    Args:
        decode_tile: called with the unscaled latents of a tile and the tile's number, instead of the VAE's decoder.
        cfw: what `decode_tile` runs besides the VAE.

    Returns:
        Images `[B, 3, H, W]`, float32 in [0, 1], which the decoder may overshoot.

    Raises:
        NotFiniteError: if they are not finite.
    """

    def decode(tile: torch.Tensor, _: int) -> torch.Tensor:
        image: torch.Tensor = vae.decode(tile, return_dict=False)[0]
        return image

    latents = latents / vae.config.scaling_factor
    images = Stage("decoding", vae, cfw).run(
        lambda: tiled_map(decode_tile or decode, latents.to(vae.dtype), windows, output_scale=unit)
    )
    return images.float() / 2 + 0.5
