"""Shared by the tests of data: a source of random numbers, neutral settings, a measure, the tensors of a sample."""

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


def tensor(sample: dict[str, torch.Tensor | str], name: str) -> torch.Tensor:
    """An entry of a sample of `PhotoCrops` that is no text."""
    value = sample[name]
    assert isinstance(value, torch.Tensor)
    return value
