"""What a method trains: a Stable Diffusion and the method's own models, as one module that predicts."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from .images import resize


class Denoiser(nn.Module):
    """A frozen Stable Diffusion. A method adds its models and implements `forward`.

    Calling it with noisy latents [B, C, h, w], timesteps [B] and a batch of `PhotoCrops` gives what the scheduler's
    `prediction_type` says, [B, C, h, w].
    """

    def __init__(self, base: StableDiffusionPipeline) -> None:
        super().__init__()
        self.vae = base.vae.requires_grad_(False)
        self.text_encoder = base.text_encoder.requires_grad_(False)
        self.unet = base.unet.requires_grad_(False)
        self.tokenizer = base.tokenizer

    def train(self, mode: bool = True) -> Denoiser:
        super().train(mode)
        for frozen in (self.vae, self.text_encoder):
            frozen.eval()
        return self

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] of `image` [B, 3, H, W] in [0, 1], in float32.

        The mean of the VAE's posterior. The official scripts draw from it, which Stable Diffusion's autoencoder makes
        so narrow that it is its mean; a small autoencoder's is wide, and its noise would be part of what has to be
        denoised.
        """
        latents: Tensor = self.vae.encode(image * 2 - 1).latent_dist.mean * self.vae.config.scaling_factor
        return latents.float()  # a scheduler computes in the type of its input

    def decode(self, latents: Tensor) -> Tensor:
        """The image [B, 3, H, W] of scaled latents, in [0, 1] but for what the decoder overshoots."""
        image: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return image.float() / 2 + 0.5

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: dict[str, Any]) -> Tensor:
        raise NotImplementedError


def condition_image(batch: dict[str, Any]) -> Tensor:
    """The degraded crops enlarged to the size of their targets, [B, 3, H, W] in [0, 1]."""
    return resize(batch["degraded"], batch["target"].shape[-2:])
