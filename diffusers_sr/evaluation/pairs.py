"""Results and their originals: whether all are there and have the right sizes, and reading them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from ..image.decoding import ImageFileError, on_white, read, to_array, upright_size
from ..image.names import printable
from ..image.pairs import LAYOUTS, Pair, PairsError, match, parts_of


def originals_in(folder: Path) -> Path:
    """Find the folder of originals in a test set; any other folder holds them itself."""
    parts = parts_of(folder)
    return folder if parts is None else parts[1]


def title_of(originals: Path) -> str:
    """Name photographs after their folder, of a test set after the whole."""
    path = originals.absolute()
    inner = {name for layout in LAYOUTS for name in layout}
    return (path.parent if path.name in inner else path).name


def result_pairs(results: Path, originals: Path) -> list[Pair]:
    """Find the result of each original: the file of the same name, whatever its suffix, and of the same size.

    Raises:
        PairsError: if a file lacks its partner or has several, is not an image, or differs from it in size. Damage
            behind a file's first bytes is found when it is read.
    """
    pairs, problems = match(results, originals)
    for pair, size, whole in _sizes(pairs, problems):
        if size != whole:
            problems.append(_different(pair, size, whole))
    return _without(problems, pairs)


def input_pairs(inputs: Path, originals: Path) -> tuple[list[Pair], Fraction]:
    """Find the input of each original, and how many times as wide and high all originals are.

    Raises:
        PairsError: if a file lacks its partner or has several, or is not an image; or if not all originals are larger
            than their inputs by one factor.
    """
    pairs, problems = match(inputs, originals)
    factors: dict[Fraction, list[str]] = defaultdict(list)
    for pair, (width, height), (whole, high) in _sizes(pairs, problems):
        sizes = _different(pair, (width, height), (whole, high))
        if whole * height == high * width:
            factors[Fraction(whole, width)].append(sizes)
        else:
            problems.append(f"{sizes}, of other proportions")
    usual = max(factors, key=lambda factor: len(factors[factor]), default=Fraction(1))
    for factor, others in factors.items():
        if factor != usual:
            problems += [f"{text}: {float(factor):g} times, most are {float(usual):g} times" for text in others]
    return _without(problems, pairs), usual


def read_picture(path: Path) -> Tensor:
    """Read a file as [1, 3, height, width] RGB in [0, 1], upright, with transparent parts on white.

    Raises:
        ImageFileError: if it cannot be read; the message names it.
    """
    try:
        image, alpha, _ = read(path)
    except ImageFileError as error:
        raise ImageFileError(f"{printable(path)}: {error}") from error
    if alpha is not None:
        image = on_white(image, alpha)
    return torch.from_numpy(to_array(image)).permute(2, 0, 1)[None].float() / 255


def _sizes(pairs: list[Pair], problems: list[str]) -> Iterator[tuple[Pair, tuple[int, int], tuple[int, int]]]:
    """Give each pair with the width and height of its picture and of its original; files without go to `problems`."""
    for pair in pairs:
        sizes = []
        for path in (pair.picture, pair.original):
            try:
                sizes.append(upright_size(path))
            except ImageFileError as error:
                problems.append(f"{printable(path)}: {error}")
        if len(sizes) == 2:
            yield pair, sizes[0], sizes[1]


def _different(pair: Pair, size: tuple[int, int], whole: tuple[int, int]) -> str:
    picture, original = (f"{width}x{height}" for width, height in (size, whole))
    return f"{printable(pair.picture)}: is {picture} pixels, its original {original}"


def _without(problems: list[str], pairs: list[Pair]) -> list[Pair]:
    if problems:
        raise PairsError(problems)
    return pairs
