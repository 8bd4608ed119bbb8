"""Make the pairs of test sets from the original photographs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..image.decoding import ImageFileError, upright_size
from ..image.formats import images_in
from ..image.names import printable
from ..image.pairs import LAYOUTS
from ..image.pictures import write_image
from .degradation import degrade
from .degradation_settings import REAL_ESRGAN, DegradationConfig
from .photos import read_image
from .seeds import sample_generator
from .sharpening import usm_sharpen

SCALE = 4
SIDE = 512
INPUTS, ORIGINALS = LAYOUTS[0]
"""The folders of a test set, as StableSR's are named."""


@dataclass(frozen=True)
class CentreCrops:
    """Crops from the centres of photographs that were taken at two focal lengths.

    Args:
        original: what the names of originals end in.
        low: what the names of their inputs end in.
        named_after: whose names the crops have in both folders.
    """

    original: str
    low: str
    named_after: Literal["original", "low"]


@dataclass(frozen=True)
class DegradedCrops:
    """Crops of photographs, and the same degraded.

    Args:
        degradation: its settings; the result is not enlarged.
        crops: number of crops of a photograph, at random places.
        sharpens: whether the original is a sharpened crop, too.
    """

    degradation: DegradationConfig
    crops: int
    sharpens: bool = False


RECIPES: dict[str, CentreCrops | DegradedCrops] = {
    "realsr": CentreCrops("_HR", "_LR4", "low"),
    "drealsr": CentreCrops("_x1", "_x4", "original"),
    "div2k-val": DegradedCrops(REAL_ESRGAN, crops=30),
    "div2k-val-sharpened": DegradedCrops(DegradationConfig(), crops=30, sharpens=True),
    "imagenet": DegradedCrops(REAL_ESRGAN, crops=1),
}
"""How the pairs of each test set are made.

RealSR and DRealSR: crops of 512 pixels from the centres of the originals, and of 128 pixels at the same place from the
photos at a quarter of the size, named as StableSR's. (StableSR may have cropped each file by itself, which is up to
two pixels elsewhere if the sides of the small one are odd.)

DIV2K-Val: 30 crops of each of the 100 photos, degraded by Real-ESRGAN's recipe. "div2k-val-sharpened" is made as
XPSR's `make_valid.py` makes it, except that inputs stay small: the crop is sharpened first, and the settings are
SeeSR's. Papers drew their crops and degradations once, at random: these pairs have the same distribution, but what is
measured on them can only be compared with what is measured on the same pairs. Take StableSR's to compare with
published numbers.

ImageNet: photos that are 512 pixels wide and high already are degraded as they are; of larger ones a crop is taken.
"""


class PlannedPair(NamedTuple):
    """A pair to make: its name, and the files it is made from."""

    name: str
    original: Path
    low: Path | None
    """None if it is made by degradation."""


def plan_pairs(test_set: str, sources: Sequence[Path]) -> list[PlannedPair]:
    """Find the files of a test set, and check them before anything is made.

    Args:
        test_set: one of `RECIPES`.
        sources: folders of photographs; those in them are not searched.

    Raises:
        ValueError: if there is no photo; if one lacks its partner, is too small, is not four times as large as its
            partner or cannot be read; or if two pairs would have one name. The error lists all.
        OSError: if a folder cannot be listed.
    """
    recipe = RECIPES[test_set]
    paths = [path for folder in sources for path in images_in(folder)]
    problems: list[str] = []
    seen: dict[str, Path] = {}
    for path in paths:
        if seen.setdefault(path.stem, path) is not path:
            problems.append(f"{printable(path)}: has the same name as {printable(seen[path.stem])}")
    if isinstance(recipe, CentreCrops):
        planned = _partners(recipe, paths, problems)
    else:
        planned = [PlannedPair(name, path, None) for path in paths for name in _names(path.stem, recipe.crops)]
    by_original = {pair.original: pair for pair in planned}
    problems += [text for pair in by_original.values() if (text := _wrong_size(pair)) is not None]
    if not planned and not problems:
        ends = f" whose names end in {recipe.original}" if isinstance(recipe, CentreCrops) else ""
        problems.append(f"{', '.join(map(printable, sources))}: there is no photo{ends}")
    if problems:
        raise ValueError("\n  ".join(["These photos cannot be used, and nothing was made:", *problems]))
    return planned


def make_pairs(
    test_set: str,
    planned: Iterable[PlannedPair],
    output: Path,
    seed: int = 0,
) -> None:
    """Write pairs as PNG files of the same name into the folders `test_LR` and `test_HR` of `output`.

    Args:
        test_set: one of `RECIPES`.
        planned: the pairs, as `plan_pairs` finds them.
        output: the folder.
        seed: of crops and degradations; with the name of a pair it decides both, whatever other pairs there are.

    Raises:
        ImageFileError: if a photo cannot be read.
        OSError: if a file cannot be written.
    """
    recipe = RECIPES[test_set]
    for folder in (INPUTS, ORIGINALS):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for pair in planned:
        if isinstance(recipe, CentreCrops):
            low, original = _centre_crops(pair)
        else:
            low, original = _degraded_crop(pair, recipe, seed)
        write_image(output / INPUTS / f"{pair.name}.png", low)
        write_image(output / ORIGINALS / f"{pair.name}.png", original)


def _names(stem: str, crops: int) -> list[str]:
    return [stem] if crops == 1 else [f"{stem}_{number:02d}" for number in range(crops)]


def _partners(recipe: CentreCrops, paths: Sequence[Path], problems: list[str]) -> list[PlannedPair]:
    """Pair files by what their names begin with."""
    originals, lows = (
        {path.stem.removesuffix(end): path for path in paths if path.stem.endswith(end)}
        for end in (recipe.original, recipe.low)
    )
    planned = []
    for start, original in originals.items():
        low = lows.get(start)
        if low is None:
            problems.append(f"{printable(original)}: there is no {printable(start)}{recipe.low}")
        else:
            planned.append(PlannedPair((low if recipe.named_after == "low" else original).stem, original, low))
    problems += [
        f"{printable(low)}: there is no {printable(start)}{recipe.original}"
        for start, low in lows.items()
        if start not in originals
    ]
    return planned


def _wrong_size(pair: PlannedPair) -> str | None:
    try:
        width, height = upright_size(pair.original)
        small = None if pair.low is None else upright_size(pair.low)
    except ImageFileError as error:
        return f"{printable(pair.original)} or its input: {error}"
    if min(width, height) < SIDE:
        return f"{printable(pair.original)}: is {width}x{height} pixels; {SIDE} are needed on each side"
    if small is not None and (small[0] * SCALE, small[1] * SCALE) != (width, height):
        return f"{printable(pair.original)}: is {width}x{height} pixels, its input {small[0]}x{small[1]}"
    return None


def _centre_crops(pair: PlannedPair) -> tuple[Tensor, Tensor]:
    assert pair.low is not None
    low, original = (read_image(path).float() / 255 for path in (pair.low, pair.original))
    side = SIDE // SCALE
    top, left = ((length - side) // 2 for length in low.shape[1:])
    return (
        low[:, top : top + side, left : left + side],
        original[:, SCALE * top : SCALE * top + SIDE, SCALE * left : SCALE * left + SIDE],
    )


def _degraded_crop(pair: PlannedPair, recipe: DegradedCrops, seed: int) -> tuple[Tensor, Tensor]:
    generator = sample_generator(seed, pair.name)
    photo = read_image(pair.original)
    top, left = (int(torch.randint(length - SIDE + 1, (), generator=generator)) for length in photo.shape[1:])
    original = photo[:, top : top + SIDE, left : left + SIDE].float() / 255
    if recipe.sharpens:
        original = usm_sharpen(original)
    low = degrade(original, generator, recipe.degradation, SCALE)
    return low, original
