"""How well fine structure survives: the gain of stripes of each period."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def stripe_gains(
    reconstruct: Callable[[Tensor], Tensor], periods: Sequence[float] = (2, 3, 4, 5, 6, 8, 12), side: int = 192
) -> dict[float, float]:
    """Measure what `reconstruct` leaves of grey stripes, horizontal and vertical ones.

    A stripe is a sine between 0.25 and 0.75. A gain is the slope of the reconstruction on it, fitted by least squares
    over the inner half of each side, and the smaller one of the two directions. It is 1 if the stripes are kept, 0 if
    they are lost, and above 1 if their contrast is exaggerated.

    Args:
        reconstruct: called with float [1, 3, side, side] RGB in [0, 1]; returns the same shape.
        periods: of the stripes, in pixels.
        side: side of an image in pixels.

    Returns:
        The gains by period.
    """
    inner = slice(side // 4, side - side // 4)
    gains = {}
    for period in periods:
        # At an eighth of a turn, stripes of two and four pixels have as much contrast as they can have in both.
        wave = 0.25 * torch.sin(2 * math.pi * torch.arange(side) / period + math.pi / 4)
        both = []
        for plane in (wave.expand(side, side), wave.expand(side, side).T):
            result = reconstruct(0.5 + plane.expand(1, 3, side, side))[0, :, inner, inner].float().cpu()
            stripes = plane[inner, inner] - plane[inner, inner].mean()
            both.append(float((stripes * result.mean(0)).sum() / stripes.square().sum()))
        gains[period] = min(both)
    return gains
