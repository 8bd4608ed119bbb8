"""The options for the size of the results."""

from __future__ import annotations

import argparse
import math

from ..image.sizes import upscale_for
from .options import positive_int

MOST_UPSCALE = 100
DEFAULT_UPSCALE = 4.0


def add_size_options(command: argparse.ArgumentParser) -> None:
    """Add --upscale, --long-side, --width and --megapixels, which exclude each other, and --max-side."""
    exclusive = command.add_mutually_exclusive_group()
    exclusive.add_argument("--upscale", type=_factor, help=f"factor to enlarge by ({DEFAULT_UPSCALE:g})")
    exclusive.add_argument(
        "--long-side", type=positive_int, metavar="PIXELS", help="instead, the longer side of the results"
    )
    exclusive.add_argument("--width", type=positive_int, metavar="PIXELS", help="instead, the width of the results")
    exclusive.add_argument(
        "--megapixels", type=_megapixels, metavar="N", help="instead, how many million pixels the results have"
    )
    command.add_argument(
        "--max-side", type=positive_int, metavar="PIXELS", help="the longest side that a result may have"
    )


def factor_for(options: argparse.Namespace, size: tuple[int, int]) -> float | None:
    """Give the factor for an image of this size; None if it is larger than what was asked for, and left alone.

    Raises:
        ValueError: if the factor would be too large.
    """
    sizes = {name: getattr(options, name) for name in ("long_side", "width", "megapixels")}
    upscale = options.upscale
    if upscale is None and not any(sizes.values()):
        upscale = DEFAULT_UPSCALE
    factor = upscale_for(size, upscale=upscale, max_side=options.max_side, **sizes)
    if factor > MOST_UPSCALE:
        raise ValueError(
            f"{size[0]}x{size[1]} pixels would be enlarged by {factor:g}, at most {MOST_UPSCALE} is possible: ask for "
            "a smaller size"
        )
    is_reduction_meant = upscale is not None and upscale < 1
    return factor if factor >= 1 or is_reduction_meant else None


def _factor(text: str) -> float:
    value = float(text)
    if not 0 < value <= MOST_UPSCALE:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most {MOST_UPSCALE}")
    return value


def _megapixels(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
