"""Encode images to latents and decode latents to images, of any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from ..image.tiling import Window, tile_windows, tiled_map
from .banded_autoencoder import decode_in_bands, encode_in_bands
from .finite import Result, Stage
from .out_of_memory import Smaller, halved, with_less_memory

_SMALLEST_TILE = 64
"""Pixels."""


def level_widths(model: Any) -> Sequence[int]:
    """Read the channels of each level of an autoencoder, or of a UNet; all levels except the last halve the size."""
    config = model.config
    widths: Sequence[int] = config.get("block_out_channels") or config["encoder_block_out_channels"]
    return widths


def pixels_per_latent(vae: Any) -> int:
    """Compute how many pixels a latent has along each side."""
    return 1 << len(level_widths(vae)) - 1


def encode_image(vae: Any, image: torch.Tensor, tile_size: int, unit: int) -> torch.Tensor:
    """Encode an image `[B, 3, H, W]` in [0, 1].

    An image that is larger than a tile is encoded in bounded memory: by an `AutoencoderKL` with the result of the
    whole image, by others in tiles that are blended. Where memory runs out, tiles get half the side.

    Args:
        vae: an autoencoder of diffusers.
        tile_size: an image with no more pixels than a square of this side is encoded whole.
        unit: pixels per latent.

    Returns:
        Unscaled: mean and logarithm of the variance of the posterior, `[B, 2 * channels, h, w]`; from an
        `AutoencoderTiny` or `AutoencoderDC`, which have no posterior, the latents, `[B, channels, h, w]`.

    Raises:
        NotFiniteError: if the result is not finite.
    """
    images = (2 * image - 1).to(vae.dtype)

    def moments(tiles: torch.Tensor, _: int = 0) -> torch.Tensor:
        encoded = vae.encode(tiles)
        result: torch.Tensor = encoded.latent_dist.parameters if hasattr(encoded, "latent_dist") else encoded[0]
        return result

    def encode(side: int) -> torch.Tensor:
        if fits_tile(images, side):
            return moments(images)
        if isinstance(unwrap_module(vae), AutoencoderKL):
            return encode_in_bands(unwrap_module(vae), images, side)
        return tiled_map(moments, images, _windows(images, unit, side, unit), input_scale=unit)

    pixels = images.shape[-2] * images.shape[-1]
    return _in_memory(Stage("encoding", vae), encode, tile_size, pixels, unit)


def decode_latents(
    vae: Any,
    latents: torch.Tensor,
    tile_size: int,
    unit: int,
    decode: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
    cfw: nn.Module | None = None,
) -> torch.Tensor:
    """Decode scaled latents `[B, channels, h, w]`, in bounded memory as `encode_image` encodes.

    Args:
        tile_size: latents of an image with no more pixels than a square of this side are decoded whole.
        decode: called with all unscaled latents and the tile size, instead of the VAE's decoder.
        cfw: what `decode` runs besides the VAE.

    Returns:
        Images `[B, 3, H, W]`, float32 in [0, 1], which the decoder may overshoot.

    Raises:
        NotFiniteError: if they are not finite.
    """
    unscaled = (latents / vae.config.scaling_factor).to(vae.dtype)

    def image_of(tiles: torch.Tensor, _: int = 0) -> torch.Tensor:
        image: torch.Tensor = vae.decode(tiles, return_dict=False)[0]
        return image

    def decode_all(side: int) -> torch.Tensor:
        if decode is not None:
            return decode(unscaled, side)
        if fits_tile(unscaled, side // unit):
            return image_of(unscaled)
        if isinstance(unwrap_module(vae), AutoencoderKL):
            return decode_in_bands(unwrap_module(vae), unscaled, side)
        return tiled_map(image_of, unscaled, _windows(unscaled, 1, side, unit), output_scale=unit)

    pixels = unscaled.shape[-2] * unscaled.shape[-1] * unit**2
    images = _in_memory(Stage("decoding", vae, cfw), decode_all, tile_size, pixels, unit)
    return images.float() / 2 + 0.5


def fits_tile(image: torch.Tensor, tile_size: int) -> bool:
    """Whether an image has no more pixels than a square with a side of `tile_size`."""
    return image.shape[-2] * image.shape[-1] <= tile_size**2


def _in_memory(stage: Stage, run: Callable[[int], Result], tile_size: int, pixels: int, unit: int) -> Result:
    """Run a stage with tiles of this size; where memory runs out, with half the side, or half that of the image.

    Args:
        pixels: those of the whole image.
    """
    size = tile_size

    def shrink() -> list[Smaller]:
        nonlocal size
        before = size
        if before // 2 < _SMALLEST_TILE:
            return []
        size = halved(min(size, math.isqrt(pixels)), unit)
        return [Smaller("vae_tile_size", before, size)]

    return with_less_memory(stage.name, lambda: stage.run(lambda: run(size)), shrink)


def _windows(image: torch.Tensor, scale: int, tile_size: int, unit: int) -> list[Window]:
    """List tiles, in latents, that overlap by a quarter."""
    tile = tile_size // unit
    return tile_windows(image.shape[-2] // scale, image.shape[-1] // scale, tile, tile // 4)
