"""Photographs of a folder, and lists of those to use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..image.formats import READABLE
from .tables import read_text


def list_images(folder: str | Path) -> list[Path]:
    """List all images below `folder`, sorted by path, so that an index means the same photo on every machine.

    Raises:
        ValueError: if the folder does not exist or holds no image.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in READABLE)
    if not paths:
        raise ValueError(
            f"No image found in {str(folder)!r}: it has to be a folder that holds files ending in "
            f"{', '.join(READABLE)}."
        )
    return paths


def listed_names(path: str | Path, photos: Sequence[Path]) -> set[str]:
    """Read the file names that a text file lists, one per line.

    Raises:
        ValueError: if one of them is not among the photos, so that a typing error does not leak or lose a photo; or
            if `read_text` raises it.
    """
    names = set(re.split("\r\n|\r|\n", read_text(path))) - {""}
    if missing := sorted(names - {photo.name for photo in photos}):
        raise ValueError(f"{path} lists photos that do not exist: {missing}.")
    return names


def training_photos(folder: str | Path, exclude: str | Path | None) -> list[Path]:
    """List the images below `folder` except for those in the text file `exclude`, if there is one.

    Raises:
        ValueError: if the folder holds no image, or lacks one that `exclude` lists.
    """
    paths = list_images(folder)
    excluded = set() if exclude is None else listed_names(exclude, paths)
    return [path for path in paths if path.name not in excluded]
