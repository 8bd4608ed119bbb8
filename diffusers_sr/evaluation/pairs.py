"""Results and their originals: which belong together, whether all are there, and reading them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..image.decoding import ImageFileError, on_white, read, to_array, upright_size
from ..image.formats import images_in
from ..image.names import printable

LAYOUTS = (("test_LR", "test_HR"), ("lq", "gt"))
"""The folders of inputs and of originals in a test set, as StableSR's are named."""


class PairsError(ValueError):
    """Pictures that cannot be compared; the message lists all of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        number = f"{len(problems)} problems were" if len(problems) > 1 else "A problem was"
        super().__init__("\n  ".join([f"{number} found, and nothing was measured or made:", *problems]))


class Pair(NamedTuple):
    """A picture and its original."""

    name: str
    """What both files are called, without suffix."""
    picture: Path
    original: Path


def parts_of(folder: Path) -> tuple[Path, Path] | None:
    """Find the folders of inputs and originals if a folder is a test set, as StableSR's and this package's are."""
    for inputs, originals in LAYOUTS:
        if (folder / inputs).is_dir() and (folder / originals).is_dir():
            return folder / inputs, folder / originals
    return None


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
        PairsError: if a file lacks its partner or has several, cannot be read, or differs from it in size.
    """
    pairs, problems = _match(results, originals)
    for pair in pairs:
        try:
            sizes = [tuple(read_picture(path).shape[:1:-1]) for path in (pair.picture, pair.original)]
        except ImageFileError as error:
            problems.append(str(error))
            continue
        if sizes[0] != sizes[1]:
            result, original = (f"{width}x{height}" for width, height in sizes)
            problems.append(f"{printable(pair.picture)}: is {result} pixels, its original {original}")
    return _without(problems, pairs)


def input_pairs(inputs: Path, originals: Path) -> tuple[list[Pair], Fraction]:
    """Find the input of each original, and how many times as wide and high all originals are.

    Raises:
        PairsError: if a file lacks its partner or has several, or cannot be read; or if not all originals are larger
            than their inputs by one factor.
    """
    pairs, problems = _match(inputs, originals)
    factors: dict[Fraction, list[str]] = defaultdict(list)
    for pair in pairs:
        try:
            (width, height), (whole, high) = upright_size(pair.picture), upright_size(pair.original)
        except ImageFileError as error:
            problems.append(f"{printable(pair.name)}: {error}")
            continue
        sizes = f"{printable(pair.picture)}: is {width}x{height} pixels, its original {whole}x{high}"
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


def _match(pictures: Path, originals: Path) -> tuple[list[Pair], list[str]]:
    ours, theirs = _by_name(pictures), _by_name(originals)
    problems = [text for named in (ours, theirs) for text in _repeated(named)]
    alone = [paths[0] for name, paths in theirs.items() if name not in ours]
    problems += [f"{printable(path)}: has no partner in {printable(pictures)}" for path in alone]
    alone = [paths[0] for name, paths in ours.items() if name not in theirs]
    problems += [f"{printable(path)}: has no original in {printable(originals)}" for path in alone]
    if not theirs and not ours:
        problems = [f"{printable(folder)}: there is no image in this folder" for folder in (pictures, originals)]
    both = [name for name in theirs if name in ours]
    return [Pair(name, ours[name][0], theirs[name][0]) for name in both], problems


def _by_name(folder: Path) -> dict[str, list[Path]]:
    named: dict[str, list[Path]] = defaultdict(list)
    try:
        for path in images_in(folder):
            named[path.stem].append(path)
    except OSError as error:
        raise PairsError([f"{printable(folder)}: this folder cannot be listed: {error.strerror}"]) from error
    return named


def _repeated(named: dict[str, list[Path]]) -> Iterator[str]:
    for paths in named.values():
        if len(paths) > 1:
            others = ", ".join(printable(path.name) for path in paths[1:])
            yield f"{printable(paths[0])}: has the same name as {others}"


def _without(problems: list[str], pairs: list[Pair]) -> list[Pair]:
    if problems:
        raise PairsError(problems)
    return pairs
