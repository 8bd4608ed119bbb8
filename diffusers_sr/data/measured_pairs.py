"""Pairs of a low-resolution image and its original, to measure models with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..image.decoding import ImageFileError
from ..image.pairs import PairsError, match, parts_of
from ..image.pixels import resize
from .degradation import degrade
from .degradation_mixture import DEGRADATIONS, MEDIUM, MILD, Degradation
from .degradation_settings import DegradationConfig
from .lists import list_images
from .photos import read_image
from .seeds import sample_generator

SCALE = 4
"""How many times smaller photos are made."""
DAMAGES: dict[str, Degradation] = {"mild": MILD, "medium": MEDIUM, "heavy": DegradationConfig(), **DEGRADATIONS}
"""The degradations of photos that models are measured on, by name."""


class Pair(NamedTuple):
    """A low-resolution image and its original, both [1, 3, height, width] in [0, 1], of 8 bits a channel."""

    low: Tensor
    original: Tensor


class Sample(NamedTuple):
    """A pair that has not been read."""

    name: str
    """Names its pictures; no other one of its set has it."""
    path: Path
    """The original."""
    read: Callable[[], Pair]
    """Raises ImageFileError if a file cannot be read, or is too small to be measured."""


def degraded_photos(
    paths: Sequence[Path], degradation: Degradation, first_seed: int, smallest: int, max_size: int | None
) -> list[Sample]:
    """List photos to be degraded, number i with the seed `first_seed` + i.

    Args:
        paths: the photos.
        degradation: what makes the low-resolution images, a fourth as large.
        first_seed: seed of the first photo.
        smallest: side in pixels that an original needs to be measured.
        max_size: longer sides are cropped, not shrunk, to that many pixels around the centre.
    """

    def read(number: int) -> Pair:
        original = _cropped(_read(paths[number], smallest), max_size, SCALE)
        low = degrade(original[0], sample_generator(0, first_seed + number), degradation, SCALE)[None]
        return Pair(_rounded(low), original)

    names = picture_names(paths)
    return [Sample(names[path], path, partial(read, number)) for number, path in enumerate(paths)]


def stored_pairs(folder: Path, smallest: int, max_size: int | None) -> list[Sample]:
    """List the pairs of a test set, or else a folder's originals, to be reduced by Pillow's bicubic filter.

    The arguments are those of `degraded_photos`.

    Raises:
        ValueError: if the folder holds no image.
        PairsError: if a low-resolution image or an original lacks its partner, of the same name without the suffix, or
            has several.
    """
    if (parts := parts_of(folder)) is not None:
        pairs, problems = match(*parts)
        if problems:
            raise PairsError(problems)
        return [
            Sample(name, original, partial(_read_stored, original, low, smallest, max_size))
            for name, low, original in pairs
        ]
    paths = list_images(folder)
    names = picture_names(paths)
    return [Sample(names[path], path, partial(_read_reduced, path, smallest, max_size)) for path in paths]


def picture_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name each photo's pictures: after its stem, with a number if another photo has the same."""
    names: dict[str, Path] = {}
    for path in paths:
        candidates = chain([path.stem], (f"{path.stem}_{number}" for number in count(2)))
        names[next(name for name in candidates if name not in names)] = path
    return {path: name for name, path in names.items()}


def _read_stored(path: Path, low_path: Path, smallest: int, max_size: int | None) -> Pair:
    original, low = _read(path, smallest), _read(low_path, 1)
    (height, width), (low_height, low_width) = original.shape[-2:], low.shape[-2:]
    scale = width // low_width
    if (low_height * scale, low_width * scale) != (height, width):
        raise ImageFileError(
            f"is {width}x{height} pixels and {low_path} {low_width}x{low_height}: each side of an original has to be "
            "the same whole number of times as long"
        )
    return Pair(_cropped(low, max_size and max_size // scale, 1), _cropped(original, max_size, scale))


def _read_reduced(path: Path, smallest: int, max_size: int | None) -> Pair:
    original = _cropped(_read(path, smallest), max_size, SCALE)
    height, width = original.shape[-2:]
    return Pair(_rounded(resize(original, (height // SCALE, width // SCALE))), original)


def _read(path: Path, smallest: int) -> Tensor:
    image = read_image(path)[None].float() / 255
    height, width = image.shape[-2:]
    if min(height, width) < smallest:
        raise ImageFileError(f"is {width}x{height} pixels: to measure it, each side has to have at least {smallest}")
    return image


def _cropped(image: Tensor, max_size: int | None, multiple: int) -> Tensor:
    """Cut the middle out, with sides of at most `max_size` pixels; they and the corner are multiples of `multiple`."""
    height, width = (min(side, max_size or side) // multiple * multiple for side in image.shape[-2:])
    top, left = ((image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2)
    top, left = top // multiple * multiple, left // multiple * multiple
    return image[..., top : top + height, left : left + width]


def _rounded(image: Tensor) -> Tensor:
    return (255 * image.clamp(0, 1)).round() / 255
