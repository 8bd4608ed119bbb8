"""CFW on images of any size, in bounded memory and with the result of the whole image."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.utils.accelerate_utils import apply_forward_hook

from ..sampling.banded_autoencoder import decode_in_bands, encode_in_bands
from ..sampling.bands import Bands
from .cfw import ControllableFeatureWrapping, autoencoder_to_join


def restore_in_bands(
    cfw: ControllableFeatureWrapping,
    vae: AutoencoderKL,
    images: torch.Tensor,
    latents: torch.Tensor,
    weight: float,
    tile_size: int,
) -> torch.Tensor:
    """Decode latents with the features of their images, as `cfw.encode` and `cfw.decode` do.

    Args:
        images: `[B, 3, H, W]` in [-1, 1].
        latents: unscaled, `[B * k, channels, h, w]`; the image is the slower index.
        weight: that of the features.
        tile_size: as in `encode_in_bands`.

    Returns:
        `[B * k, 3, H, W]` in [-1, 1].
    """
    vae = autoencoder_to_join(vae)
    pairs = zip(images.split(1), latents.split(len(latents) // len(images)), strict=True)
    return torch.cat([_restore(cfw, vae, *pair, weight, tile_size) for pair in pairs])


def _restore(
    cfw: ControllableFeatureWrapping,
    vae: AutoencoderKL,
    image: torch.Tensor,
    latents: torch.Tensor,
    weight: float,
    tile_size: int,
) -> torch.Tensor:
    features: dict[int, torch.Tensor] = {}

    def keep(level: int, states: torch.Tensor, _: Bands) -> torch.Tensor:
        if level in cfw.config.levels:
            features[level] = states.to(cfw.dtype, copy=True)
        return states

    def fuse(level: int, states: torch.Tensor, bands: Bands) -> torch.Tensor:
        if level not in features:
            return states
        return states + weight * _fusion(cfw, level, features[level], states, bands).to(states.dtype)

    encode_in_bands(vae, image, tile_size, keep)
    return decode_in_bands(vae, latents, tile_size, fuse)


@apply_forward_hook
def _fusion(
    cfw: ControllableFeatureWrapping, level: int, features: torch.Tensor, states: torch.Tensor, bands: Bands
) -> torch.Tensor:
    """Run a fusion layer block by block: in one go its bands would have to reach as far as all its convolutions."""
    layer: Any = cfw.fusion_layers[str(level)]
    fused = bands.run([layer.resnet_in], features, states.to(cfw.dtype))
    for block in (*layer.rrdbs, layer.resnet_out):
        fused = bands.run([block], fused, overwrite=True)
    return fused
