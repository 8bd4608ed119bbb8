"""The autoencoders that trainers take: with a posterior, or without."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers import AutoencoderDC, AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from ..pretrained.loading import load_pretrained

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderDC
_KINDS = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderDC)}
# Of the distribution of diffusers: the smallest logarithm of a variance.
_LEAST = -30.0


def load_autoencoder(folder: str | Path) -> Autoencoder:
    """Load an `AutoencoderKL` or `AutoencoderDC`, as the folder's configuration says.

    Raises:
        ValueError: if the folder holds another model.
        ModelFolderError: if it is damaged.
        OSError: if there is no such folder.
    """
    name = AutoencoderKL.load_config(folder).get("_class_name")
    if name not in _KINDS:
        raise ValueError(f"{str(folder)!r} holds an {name}: give an {' or an '.join(_KINDS)}.")
    model: Autoencoder = load_pretrained(_KINDS[name], folder)
    return model


def posterior(vae: Autoencoder, image: Tensor, deviation: float = 0.0) -> DiagonalGaussianDistribution:
    """Encode an image to the distribution of its unscaled latents.

    Args:
        vae: the autoencoder.
        image: [B, 3, H, W] in [-1, 1].
        deviation: of the latents of an autoencoder that has no posterior, about the latents that it gives.
    """
    encoded = vae.encode(image)
    if hasattr(encoded, "latent_dist"):
        distribution: DiagonalGaussianDistribution = encoded.latent_dist
        return distribution
    logarithm = 2 * math.log(deviation) if deviation else _LEAST
    latents = encoded.latent
    return DiagonalGaussianDistribution(torch.cat([latents, torch.full_like(latents, logarithm)], 1))
