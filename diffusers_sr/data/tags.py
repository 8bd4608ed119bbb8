"""Tags and captions of photographs in a user's table."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from ..image.names import printable
from .names import PhotoFinder
from .photos import PhotoFiles, Photos
from .tables import read_rows

logger = logging.getLogger(__name__)


def read_tags(path: str | Path | None) -> dict[str, str]:
    """Read tags by file name from a CSV file with the columns `file` and `tags`; there are none without a file.

    Raises:
        ValueError: if `read_rows` raises it, or a row has no file name, or other tags for the file of an earlier row.
    """
    return {} if path is None else {name: tags for _, name, tags in _rows(path)}


def photo_tags(path: str | Path | None, photos: Photos) -> dict[str, str]:
    """Read the tags of photos, by the photos' names, from a CSV file as in `read_tags`.

    A row names a photo by its file name, or by its path or the end of it. How many photos have no row, and how many
    rows no photo, is logged.

    Raises:
        ValueError: if `read_tags` raises it; a row names several photos, or one that has other tags already; a row's
            name is, except for suffix or case, that of a photo without a row; or no row names a photo.
    """
    if path is None:
        return {}
    finder = PhotoFinder(photos.paths if isinstance(photos, PhotoFiles) else photos.names)
    tags: dict[int, str] = {}
    others: list[tuple[str, str]] = []
    for where, name, text in _rows(path):
        numbers = finder.find(name)
        if len(numbers) > 1:
            shown = " and ".join(_shown(photos.names[number]) for number in numbers[:2])
            raise ValueError(
                f"{where}: {_shown(name)} is the name of {len(numbers)} photos, such as {shown}: write as much of "
                "the path as tells them apart."
            )
        if not numbers:
            others.append((where, name))
        elif tags.setdefault(numbers[0], text) != text:
            raise ValueError(f"{where}: {_shown(name)} has other tags in an earlier row: keep one of the rows.")
    for where, name in others:
        if near := [number for number in finder.near(name) if number not in tags]:
            raise ValueError(
                f"{where}: there is no photo {_shown(name)}, but {_shown(photos.names[near[0]])}: write the name as "
                "that of the file, with its suffix and in the same case, or the end of its path."
            )
    if not tags:
        first = f", but {_shown(others[0][1])}" if others else ""
        raise ValueError(
            f"{path} has tags for none of the {len(photos)} photos: the first photo is {_shown(photos.names[0])}, "
            f"and no row names one{first}. Write the photos' file names in the column 'file'."
        )
    rest = ""
    if others:
        rest = f"; {len(others)} of its rows name none of them, such as {_shown(others[0][1])}"
    level = logging.WARNING if others or len(tags) < len(photos) else logging.INFO
    logger.log(level, "%s has tags for %d of the %d photos%s.", path, len(tags), len(photos), rest)
    return {photos.names[number]: text for number, text in tags.items()}


def split_tags(text: str) -> list[str]:
    """Split a comma-separated list into its tags."""
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def _rows(path: str | Path) -> Iterator[tuple[str, str, str]]:
    """Read where each row is, in words, its file name and its tags."""
    seen: dict[str, str] = {}
    for where, row in read_rows(path, ("file", "tags")):
        name = row["file"]
        if not name:
            raise ValueError(f"{where} has no file name: write the photo's name in the column 'file'.")
        if seen.setdefault(name, row["tags"]) != row["tags"]:
            raise ValueError(f"{where}: {_shown(name)} is there a second time, with other tags: keep one of the rows.")
        yield where, name, row["tags"]


def _shown(name: str) -> str:
    return f"'{printable(name)}'"
