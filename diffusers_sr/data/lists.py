"""Photographs of folders, and lists of those to use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path

from ..image.formats import READABLE
from .tables import read_text


def list_images(folder: str | Path) -> list[Path]:
    """List all images below `folder`, sorted by path, so that an index means the same photo on every machine.

    Links to folders are followed, but no folder is read twice, and none that holds `folder` itself.

    Raises:
        ValueError: if the folder does not exist or holds no image.
    """
    folder = Path(folder)
    paths = sorted(path for path in _files(folder) if path.suffix.lower() in READABLE)
    if not paths:
        raise ValueError(
            f"No image found in {str(folder)!r}: it has to be a folder that holds files ending in "
            f"{', '.join(READABLE)}."
        )
    return paths


def _files(folder: Path) -> Iterator[Path]:
    seen = {_identity(parent) for parent in folder.resolve().parents}
    tops = [folder]
    while tops:
        links = []
        for top in tops:
            for path, names, files in os.walk(top):
                if (identity := _identity(path)) in seen:
                    names.clear()
                    continue
                seen.add(identity)
                links += [link for name in names if (link := Path(path, name)).is_symlink()]
                yield from (Path(path, file) for file in files)
        # After the folders themselves, so that a photo keeps the path that does not lead through a link.
        tops = sorted(links)


def _identity(folder: str | Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


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


def photos_by_folder(folders: Sequence[str | Path], exclude: str | Path | None) -> list[list[Path]]:
    """List the images below each folder except for those in the text file `exclude`, if there is one.

    Raises:
        ValueError: if a folder holds no image, or is in another one; or if none has one that `exclude` lists.
    """
    for inner, outer in permutations(folders, 2):
        if Path(inner).resolve().is_relative_to(Path(outer).resolve()):
            raise ValueError(f"{str(inner)!r} is in {str(outer)!r}, whose photos are all used: give each folder once.")
    groups = [list_images(folder) for folder in folders]
    excluded = set() if exclude is None else listed_names(exclude, [path for group in groups for path in group])
    return [[path for path in group if path.name not in excluded] for group in groups]


def training_photos(folders: str | Path | Sequence[str | Path], exclude: str | Path | None) -> list[Path]:
    """List the images of one folder or several, as `photos_by_folder` does, one folder after the other."""
    folders = [folders] if isinstance(folders, (str, Path)) else folders
    return [path for group in photos_by_folder(folders, exclude) for path in group]
