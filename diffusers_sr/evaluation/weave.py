"""How much finer structure a result has than its original where the original is flat: a weave, a grid, or noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .measures import check_images, luma

BLOCK = 32
"""The side of a block in pixels; blocks begin at every half of it."""
FLAT = 4 / 255
"""A block is flat if the luma of the original has at most this standard deviation in it."""
BAND = (0.35, 0.5)
"""Frequencies of the finest structure, in cycles a pixel along the axis that has more of them."""
# The noise in the luma of an image whose channels are rounded to 8 bits: what lies far below cannot be seen.
_ROUNDING = (0.299**2 + 0.587**2 + 0.114**2) / (12 * 255**2)


def _blocks(image: Tensor) -> Tensor:
    """Cut the luma of one image, [3, height, width], into blocks, [number, BLOCK, BLOCK]."""
    plane = luma(image[None])[0]
    return plane.unfold(0, BLOCK, BLOCK // 2).unfold(1, BLOCK, BLOCK // 2).reshape(-1, BLOCK, BLOCK)


def fine_power(blocks: Tensor) -> Tensor:
    """Compute the mean power in `BAND` of each block, [number, BLOCK, BLOCK], times a Hann window, less its mean.

    Power is scaled so that white noise of variance v has power v.
    """
    window = torch.outer(*[torch.hann_window(BLOCK).to(blocks)] * 2)
    blocks = (blocks - blocks.mean((1, 2), keepdim=True)) * window
    power = torch.fft.fft2(blocks).abs().square() / window.square().sum()
    frequency = torch.fft.fftfreq(BLOCK).abs()
    larger = torch.maximum(frequency[:, None], frequency).to(blocks.device)
    low, high = BAND
    return power[:, (larger >= low) & (larger <= high)].mean(1)


def flat_weave(reference: Tensor, result: Tensor) -> Tensor:
    """Compute the power of the finest structure in flat areas, as a multiple of the reference's.

    Flat areas are the blocks of 32 x 32 pixels, one every 16 pixels, in which the reference's luma deviates by at most
    4/255. The power is that of frequencies from 0.35 to 0.5 cycles a pixel along at least one axis, averaged over all
    flat blocks, plus the noise that rounding the channels to 8 bits makes, in both.

    Args:
        reference: float [batch, 3, height, width] RGB in [0, 1].
        result: the same shape.

    Returns:
        One ratio for each image, [batch]: 1 if flat areas are as they were, less if they are smoother; not a number
        where the reference has no flat area.

    Raises:
        ValueError: if the two differ in shape, or a side has less than 32 pixels.
    """
    check_images(reference, result, BLOCK)
    ratios = []
    for original, restored in zip(reference, result, strict=True):
        blocks = _blocks(original)
        flat = blocks.std((1, 2), correction=0) <= FLAT
        if flat.any():
            before, after = (fine_power(each[flat]).mean() + _ROUNDING for each in (blocks, _blocks(restored)))
            ratios.append(after / before)
        else:
            ratios.append(reference.new_tensor(math.nan))
    return torch.stack(ratios)
