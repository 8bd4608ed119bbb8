"""Shared by the tests of the degradation: a source of random numbers, neutral settings, a measure."""

from __future__ import annotations

import torch

from diffusers_sr.data.degradation_settings import DegradationOrder

NEUTRAL = DegradationOrder(
    blur_probability=0,
    resize_probabilities=(0, 0, 1),
    gaussian_noise_probability=1,
    gaussian_noise_sigma=(0, 0),
    jpeg_quality=(100, 100),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    return -10 * (first - second).square().mean().log10().item()
