"""Noise on latents, and latents without their noise, in closed form (DDPM, arXiv:2006.11239, equation 4).

ᾱ is the scheduler's cumulative product of alphas at a timestep, a float32 number. The type that its roots are taken in
matters for float64 latents: x0 depends on it in the sixth digit.
"""

from __future__ import annotations

from typing import Any

import torch


def alpha_bar(scheduler: Any, timestep: int) -> torch.Tensor:
    """Give ᾱ of a timestep, a tensor without axes."""
    alpha: torch.Tensor = scheduler.alphas_cumprod[timestep]
    return alpha


def as_fine_as(latents: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Give ᾱ in the type of the latents, if that is finer than its own."""
    return alpha.to(torch.promote_types(latents.dtype, alpha.dtype))


def add_noise(latents: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Add noise to latents, √ᾱ·z + √(1 - ᾱ)·n, with roots as fine as the latents."""
    alpha = as_fine_as(latents, alpha)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def without_noise(latents: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Solve for the image without its noise, x0 = (z - √(1 - ᾱ)·ε) / √ᾱ, with roots in the type of ᾱ."""
    return (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
