"""Tags and captions of photographs in a user's table."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..image.names import printable
from .names import PhotoFinder
from .photos import PhotoFiles, Photos
from .tables import read_rows
from .weighted_texts import weighted_texts

logger = logging.getLogger(__name__)


def read_tags(path: str | Path | None) -> list[str]:
    """Read all tags or captions of a table, in its order; there are none without a file. See `photo_tags`.

    Raises:
        ValueError: if `read_rows` raises it; or a row has no file name, a weight that is not a number above 0, a
            weight without a text or, without a weight, other tags for the file of an earlier row.
    """
    return [] if path is None else [row.text for row in _rows(path)]


def photo_tags(path: str | Path | None, photos: Photos, folders: Sequence[str | Path] = ()) -> dict[str, str]:
    """Read the tags or captions of photos, by the photos' names, from a CSV file with the columns `file` and `tags`.

    A row names a photo by its path from the data folder on, its whole path, or the end of it, down to the file name,
    where no other photo's path ends alike. With a column `weight`, a photo may have several rows, whose captions are
    drawn in proportion to it (see `weighted_texts`). How many rows name no photo is logged.

    Args:
        path: the table; there are no tags without one.
        photos: the photos.
        folders: the data folders of photos that are files.

    Raises:
        ValueError: if `read_tags` raises it; a row names several photos, or, without weights, one that has other tags
            already; a row's name is, except for suffix or case, that of a photo without a row; or no row names a
            photo.
    """
    if path is None:
        return {}
    finder = PhotoFinder(photos.paths if isinstance(photos, PhotoFiles) else photos.names, folders)
    tags: dict[int, dict[str, float]] = defaultdict(dict)
    others: list[_Row] = []
    for row in _rows(path):
        numbers = finder.find(row.name)
        if len(numbers) > 1:
            shown = " and ".join(_shown(photos.names[number]) for number in numbers[:2])
            raise ValueError(
                f"{row.where}: {_shown(row.name)} is the name of {len(numbers)} photos, such as {shown}: write the "
                "path from the data folder on, or as much of it as tells them apart."
            )
        if not numbers:
            others.append(row)
            continue
        own = tags[numbers[0]]
        if row.weight is None and own and row.text not in own:
            raise ValueError(
                f"{row.where}: {_shown(row.name)} has other tags in an earlier row: keep one of the rows, or give "
                "each a weight in a column 'weight'."
            )
        own[row.text] = 1.0 if row.weight is None else own.get(row.text, 0.0) + row.weight
    for row in others:
        if near := [number for number in finder.near(row.name) if number not in tags]:
            raise ValueError(
                f"{row.where}: there is no photo {_shown(row.name)}, but {_shown(photos.names[near[0]])}: write the "
                "name as that of the file, with its suffix and in the same case, or the end of its path."
            )
    if not tags:
        first = f", but {_shown(others[0].name)}" if others else ""
        raise ValueError(
            f"{path} has tags for none of the {len(photos)} photos: the first photo is {_shown(photos.names[0])}, "
            f"and no row names one{first}. Write the photos' file names in the column 'file'."
        )
    if others:
        logger.warning("%d rows of %s name none of the photos, such as %s.", len(others), path, _shown(others[0].name))
    return {photos.names[number]: weighted_texts(texts) for number, texts in tags.items()}


def split_tags(text: str) -> list[str]:
    """Split a comma-separated list into its tags."""
    return [tag.strip() for tag in text.split(",") if tag.strip()]


class _Row(NamedTuple):
    where: str
    name: str
    text: str
    weight: float | None


def _rows(path: str | Path) -> Iterator[_Row]:
    seen: dict[str, str] = {}
    for where, row in read_rows(path, ("file", "tags")):
        name = row["file"]
        if not name:
            raise ValueError(f"{where} has no file name: write the photo's name in the column 'file'.")
        weight = _weight(where, row["weight"]) if "weight" in row else None
        if weight is not None and not row["tags"].strip():
            raise ValueError(f"{where}: {_shown(name)} has a weight, but no text: leave out the row.")
        if weight is None and seen.setdefault(name, row["tags"]) != row["tags"]:
            raise ValueError(
                f"{where}: {_shown(name)} is there a second time, with other tags: keep one of the rows, or give each "
                "a weight in a column 'weight'."
            )
        yield _Row(where, name, row["tags"], weight)


def _weight(where: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise ValueError(f"{where}: the weight is {text!r}, but has to be a number above 0.")
    return weight


def _shown(name: str) -> str:
    return f"'{printable(name)}'"
