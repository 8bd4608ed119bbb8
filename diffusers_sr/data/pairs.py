"""The user's own pairs: photographs, and their low-resolution versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..image.decoding import ImageFileError, upright_size

_MOST_LISTED = 10


def pair_photos(
    photos: Sequence[Path], low_resolution: Sequence[Path], scale: int, option: str = "--train_lr_dir"
) -> list[Path]:
    """Find the low-resolution version of each photo: the file of the same stem.

    The sizes of files that cannot be read are not checked; reading them later raises the error.

    Raises:
        ValueError: if two photos have the same stem; or if a photo has no version or several, a version has no photo,
            or a photo is not exactly `scale` times as wide and high as its version; the error lists names and sizes.
    """
    by_stem: dict[str, list[Path]] = {}
    for path in low_resolution:
        by_stem.setdefault(path.stem, []).append(path)
    stems = {path.stem for path in photos}
    if len(stems) < len(photos):
        first, second = _same_stem(photos)
        raise ValueError(
            f"{first} and {second} have the same stem, by which their low-resolution versions are found: rename one "
            "of them."
        )
    problems = [f"{path.name} has no photo" for path in low_resolution if path.stem not in stems]
    pairs = []
    for photo in photos:
        found = by_stem.get(photo.stem, [])
        if len(found) == 1:
            pairs.append(found[0])
            problems += _different_sizes(photo, found[0], scale)
        else:
            several = ", ".join(path.name for path in found)
            problems.append(f"{photo.name} has " + (f"several: {several}" if found else "no low-resolution version"))
    if problems:
        shown = "; ".join(problems[:_MOST_LISTED]) + ("; ..." if len(problems) > _MOST_LISTED else "")
        raise ValueError(
            f"{len(problems)} of the photos and their low-resolution versions do not match: {shown}. Each photo needs "
            f"one file of the same stem in {option}, whose sides are exactly 1/{scale} of its own."
        )
    return pairs


def _same_stem(photos: Sequence[Path]) -> tuple[Path, Path]:
    by_stem: dict[str, Path] = {}
    return next((other, path) for path in photos if (other := by_stem.setdefault(path.stem, path)) is not path)


def _different_sizes(photo: Path, low_resolution: Path, scale: int) -> list[str]:
    size, small = _size(photo), _size(low_resolution)
    if size is None or small is None or size == (small[0] * scale, small[1] * scale):
        return []
    return [f"{photo.name} is {size[0]}x{size[1]} pixels, {low_resolution.name} {small[0]}x{small[1]}"]


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return upright_size(path)
    except ImageFileError:
        return None
