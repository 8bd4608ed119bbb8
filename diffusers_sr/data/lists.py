"""Photographs of a folder, and lists about them: which to use, and their tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..image.formats import READABLE
from .tables import read_rows, read_text


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


def read_tags(path: str | Path | None) -> dict[str, str]:
    """Read tags by file name from a CSV file with the columns `file` and `tags`; there are none without a file.

    Raises:
        ValueError: if `read_rows` raises it, or a row has no file name, or other tags for the file of an earlier row.
    """
    tags: dict[str, str] = {}
    if path is None:
        return tags
    for where, row in read_rows(path, ("file", "tags")):
        name = row["file"]
        if not name:
            raise ValueError(f"{where} has no file name: write the photo's name in the column 'file'.")
        if tags.setdefault(name, row["tags"]) != row["tags"]:
            raise ValueError(f"{where}: {name!r} is there a second time, with other tags: keep one of the rows.")
    return tags


def split_tags(text: str) -> list[str]:
    """Split a comma-separated list into its tags."""
    return [tag.strip() for tag in text.split(",") if tag.strip()]


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
