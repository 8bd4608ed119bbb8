"""The files in a folder that Python could run, told from what is opened, not only from what is listed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import all_suffixes
from pathlib import Path

_SUFFIXES = (*(suffix.lower() for suffix in all_suffixes()), ".pyw")


def holds_only(folder: Path, opened: Iterable[str], allowed: Mapping[str, bytes]) -> bool:
    """Whether the only code in a folder is at the paths `allowed`, with these bytes.

    What is there but cannot be looked at counts as other code: a folder that can be searched but not listed, a file
    that may not be read, a link out of the folder (except one of a Hub snapshot to its own repository's blobs).

    Args:
        opened: paths that are looked at even if they are listed nowhere, because their folder is a link.
    """
    try:
        root = folder.resolve(strict=True)
        found = {*_listed_code(folder), *(path for path in opened if _exists(folder / path))}
        return all(path in allowed and _is_file_with(folder / path, root, allowed[path]) for path in found)
    except (OSError, RuntimeError, ValueError):  # RuntimeError: a circle of links; ValueError: no path at all
        return False


def _listed_code(folder: Path) -> Iterator[str]:
    """List everything below a folder that has the name of code, folders and broken links too."""

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        for name in (*folders, *files):
            if name.lower().endswith(_SUFFIXES):
                yield (Path(parent) / name).relative_to(folder).as_posix()


def _exists(path: Path) -> bool:
    """Whether something can be opened there; an error if that cannot be told."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_file_with(path: Path, root: Path, content: bytes) -> bool:
    real = path.resolve(strict=True)
    is_blob = root.parent.name == "snapshots" and real.parent == root.parent.parent / "blobs"
    if not path.parent.resolve(strict=True).is_relative_to(root) or not (is_blob or real.is_relative_to(root)):
        return False
    status = real.stat()
    return stat.S_ISREG(status.st_mode) and status.st_size == len(content) and real.read_bytes() == content
