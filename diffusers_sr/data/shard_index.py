"""The index of a shard, in a hidden file beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..image.partial import whole_file

_VERSION = 1


class Member(NamedTuple):
    """A photograph in a shard."""

    name: str
    tags: str
    offset: int
    """Where its file begins in the shard, in bytes."""
    size: int
    """Length of its file, in bytes."""


def index_path(shard: Path) -> Path:
    """Name the file that the index of a shard is kept in."""
    return shard.with_name(f".{shard.name}.index.json")


def kept_index(shard: Path, state: os.stat_result) -> list[Member] | None:
    """Read the index of a shard if one is kept, and the shard has not changed since then.

    Args:
        shard: the tar file.
        state: its size and time of change.
    """
    try:
        kept = json.loads(index_path(shard).read_bytes())
        if kept["shard"] == _identity(shard, state):
            columns = (kept[field] for field in Member._fields)
            return list(map(Member._make, zip(*columns, strict=True)))
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is damaged
        pass
    return None


def keep_index(shard: Path, state: os.stat_result, members: Sequence[Member]) -> None:
    """Write the index of a shard, whole or not at all.

    Args:
        shard: the tar file.
        state: its size and time of change before it was read.
        members: its photographs.

    Raises:
        OSError: if it cannot be written.
    """
    # Columns, and not a list for each photo: they are read in half the time.
    columns = {field: [member[number] for member in members] for number, field in enumerate(Member._fields)}
    with whole_file(index_path(shard)) as unfinished:
        unfinished.write_text(json.dumps({"shard": _identity(shard, state), **columns}), encoding="ascii")


def _identity(shard: Path, state: os.stat_result) -> list[object]:
    return [_VERSION, shard.name, state.st_size, state.st_mtime_ns]
