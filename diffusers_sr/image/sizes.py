"""The factor that brings an image to the size that was asked for."""

from __future__ import annotations

import math


def upscale_for(
    size: tuple[int, int],
    *,
    upscale: float | None = None,
    long_side: float | None = None,
    width: float | None = None,
    megapixels: float | None = None,
    max_side: float | None = None,
) -> float:
    """Give the factor to enlarge an image by, for the argument `upscale` of a pipeline's call.

    It is one factor for both sides, so that proportions are kept. The side that was asked for is met exactly, the
    other one is rounded; megapixels are met as nearly as that allows.

    Args:
        size: width and height of the image.
        upscale: the factor itself.
        long_side: pixels of the longer side of the result.
        width: pixels of its width.
        megapixels: millions of pixels of the result.
        max_side: the most pixels that either of its sides may have, whatever else is asked for.

    Returns:
        The factor. It is below 1 if the image is larger than what was asked for.

    Raises:
        ValueError: if not exactly one of `upscale`, `long_side`, `width` and `megapixels` is given.
    """
    longer = max(size)
    factors = [
        factor
        for factor in (
            upscale,
            None if long_side is None else long_side / longer,
            None if width is None else width / size[0],
            None if megapixels is None else math.sqrt(megapixels * 1e6 / (size[0] * size[1])),
        )
        if factor is not None
    ]
    if len(factors) != 1:
        raise ValueError(f"{len(factors)} sizes are given: give one of upscale, long_side, width and megapixels.")
    return factors[0] if max_side is None else min(factors[0], max_side / longer)
