"""How much of a photo an autoencoder of diffusers keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def reconstruct(vae: Any, image: Tensor) -> Tensor:
    """Encode and decode an image, through the mode of the posterior if there is one.

    Args:
        vae: an autoencoder of diffusers, such as `AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`.
        image: float [batch, 3, height, width] RGB in [0, 1], of sides that are multiples of the latents' size.

    Returns:
        The same shape, float32 in [0, 1] on the image's device.
    """
    encoded = vae.encode((2 * image - 1).to(vae.device, vae.dtype))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded[0]
    result: Tensor = vae.decode(latents).sample
    return (result.float() / 2 + 0.5).clamp(0, 1).to(image.device)
