"""The keys of image files in caches of prompts, kept so that a file that has not changed is not opened again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class FileState(NamedTuple):
    """The size of a file, in bytes, and its time of change, in nanoseconds."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Look up the state of a file. Raises OSError if it does not exist."""
        found = os.stat(path)
        return cls(found.st_size, found.st_mtime_ns)


class ImageKeys:
    """The keys of image files, in a file beside the caches of prompts.

    Images are known by their paths relative to that folder: where both are moved together, they still are. A line that
    an interruption left incomplete is ignored, and its image is opened again.

    Args:
        directory: folder of the caches.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / "image-keys.jsonl"
        self._folders: dict[Path, str] = {}
        self._known: dict[str, tuple[FileState, str]] = {}
        if self.path.is_file():
            with open(self.path, "rb") as file:
                for line in file:
                    try:
                        name, size, mtime_ns, key = json.loads(line)
                    except (ValueError, TypeError):
                        continue
                    self._known[name] = FileState(size, mtime_ns), key

    def get(self, path: Path) -> str | None:
        """Give the key of an image file, or None if it is not known in the state that the file has now."""
        state, key = self._known.get(self._name(path), (None, None))
        return key if state is not None and path.is_file() and state == FileState.of(path) else None

    def add(self, keys: Mapping[Path, tuple[FileState, str]]) -> None:
        """Keep the keys of image files, with the states that the files had before they were read.

        Raises:
            OSError: if they cannot be written; this object knows them nevertheless.
        """
        named = {self._name(path): known for path, known in keys.items()}
        new = {name: known for name, known in named.items() if self._known.get(name) != known}
        if not new:
            return
        self._known.update(new)
        # The first line break ends a line that an interruption left incomplete.
        lines = ["", *(json.dumps([name, *state, key]) for name, (state, key) in new.items()), ""]
        with open(self.path, "ab", buffering=0) as unbuffered:  # one system call, so that lines stay whole
            unbuffered.write("\n".join(lines).encode())

    def _name(self, path: Path) -> str:
        if path.parent not in self._folders:
            self._folders[path.parent] = os.path.relpath(path.parent, self.path.parent)
        return f"{self._folders[path.parent]}/{path.name}"
