"""What goes wrong when a released model is fetched: one kind of error, whose message is one line."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ReleasedModelError(OSError, ValueError):
    """A released model that cannot be fetched or converted: the message says why, and what to do."""


@contextmanager
def no_room_is_said(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk within the `with` block into one that says so.

    Raises:
        ReleasedModelError: if the disk is full.
    """
    try:
        yield
    except ReleasedModelError:
        raise
    except Exception as error:  # that of safetensors is not an OSError, and has no number of its own
        numbers = [getattr(error, "errno", None), *(n for n in _NO_ROOM if f"(os error {n})" in str(error))]
        if not set(numbers) & set(_NO_ROOM):
            raise
        raise ReleasedModelError(
            f"There is no room left on the disk of {folder} ({size_text(free_bytes(folder))} are free). Make room, or "
            "set HF_HUB_CACHE to a folder on another disk, and try again: files that are complete are kept."
        ) from error


def check_room(folder: Path, needed: int) -> None:
    """Raise ReleasedModelError if the disk of a folder has less room than is needed."""
    free = free_bytes(folder)
    if needed > free:
        raise ReleasedModelError(
            f"{size_text(needed)} have to be downloaded, but the disk of {folder} has room for {size_text(free)}: "
            "make room, or set HF_HUB_CACHE to a folder on another disk."
        )


def free_bytes(folder: Path) -> int:
    """Measure how many bytes fit on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size_text(size: int) -> str:
    """Write a number of bytes as people read it, such as "5.6 GB"."""
    amount, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        del units[0]
    return f"{size} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"
