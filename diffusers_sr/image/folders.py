"""Find the images that a user means by files and folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .formats import images_in

_NO_IMAGE = "there is no image in this folder"


@dataclass
class Found:
    """The images that were found in files and folders."""

    images: list[tuple[Path, Path]] = field(default_factory=list)
    """Each file, and the folder it lies in, from the folder that was given on."""
    failures: list[tuple[Path, str]] = field(default_factory=list)
    """Folders that cannot be listed or have no image, and why."""
    notes: list[tuple[Path, str]] = field(default_factory=list)
    """What was left out, and why."""


def find_images(inputs: Sequence[Path], recursive: bool = False, left_out: Path | None = None) -> Found:
    """Find images: files as they are given, and those of folders, sorted by name.

    Args:
        inputs: files and folders.
        recursive: whether the folders in folders are searched, too, except for hidden ones and links to folders.
        left_out: a folder in another that is not searched.
    """
    found = Found()
    for path in inputs:
        if not os.path.isdir(path):
            found.images.append((path, Path()))
            continue
        images, failures = len(found.images), len(found.failures)
        _search(path, recursive, None if left_out is None else os.path.realpath(left_out), found)
        if len(found.images) == images and len(found.failures) == failures:
            found.failures.append((path, f"{_NO_IMAGE} or in those in it" if recursive else _NO_IMAGE))
    return found


def _search(folder: Path, recursive: bool, left_out: str | None, found: Found) -> None:
    waiting = [(folder, Path())]
    while waiting:
        folder, relative = waiting.pop()
        try:
            found.images += [(path, relative) for path in images_in(folder)]
            below = sorted(path for path in folder.iterdir() if path.is_dir()) if recursive else []
        except OSError as error:
            found.failures.append((folder, f"this folder cannot be listed: {error.strerror}"))
            continue
        below = [path for path in below if not path.name.startswith(".") and os.path.realpath(path) != left_out]
        for path in below:
            if path.is_symlink():  # it may lead anywhere, and in a circle
                found.notes.append((path, "is a link to a folder, which is not followed: give the folder as an input"))
        waiting += [(path, relative / path.name) for path in reversed(below) if not path.is_symlink()]
