"""Give a super-resolved image the colours of the image it was made from. Both are `[B, 3, H, W]` in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def adain(image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Adaptive instance normalisation: the mean and deviation of each channel, over the whole image, of `reference`.

    The official default. It moves the colours of an image as a whole, and keeps every difference inside it.
    """
    deviation, mean = _deviation_and_mean(image)
    reference_deviation, reference_mean = _deviation_and_mean(reference)
    return ((image - mean) / deviation * reference_deviation + reference_mean).clamp(0, 1)


def wavelet(image: torch.Tensor, reference: torch.Tensor, levels: int = 5) -> torch.Tensor:
    """The fine detail of `image` on the coarse colours of `reference`.

    Both are split in an à trous wavelet decomposition of `levels` levels; as it is linear, what remains after all
    levels of the difference of the two is what has to be added to `image`.
    """
    coarse = reference - image
    for level in range(levels):
        coarse = _binomial_blur(coarse, 2**level)
    return (image + coarse).clamp(0, 1)


COLOR_FIXES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"adain": adain, "wavelet": wavelet}


def _deviation_and_mean(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    variance, mean = torch.var_mean(image, dim=(2, 3), keepdim=True)
    return (variance + 1e-5).sqrt(), mean


def _binomial_blur(image: torch.Tensor, step: int) -> torch.Tensor:
    """Blur along both axes with the kernel [1/4, 1/2, 1/4] on pixels `step` apart; the border is replicated."""
    padded = F.pad(image, (step, step, step, step), mode="replicate")
    rows = padded[:, :, : -2 * step] / 4 + padded[:, :, step:-step] / 2 + padded[:, :, 2 * step :] / 4
    return rows[..., : -2 * step] / 4 + rows[..., step:-step] / 2 + rows[..., 2 * step :] / 4
