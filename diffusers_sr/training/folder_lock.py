"""One trainer in an output folder at a time."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..image.locks import CAN_LOCK, lock_file, unlock_file

logger = logging.getLogger(__name__)

LOCK_FILE = ".training.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside the `with` block, keep other trainers out of a folder, which is made if it does not exist.

    The operating system forgets the lock when the process ends, however it ends. Loader workers do not inherit it.

    Raises:
        ValueError: if another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not CAN_LOCK:
        logger.warning("%s cannot be locked on this system: start no other run in it.", folder)
        yield
        return
    path = folder / LOCK_FILE
    descriptor = _locked_file(path)
    try:
        yield
    finally:
        if descriptor is not None:
            unlock_file(path, descriptor)


def _locked_file(path: Path) -> int | None:
    """Open a file and lock it; None, with a warning, if the disk has no locks."""
    try:
        descriptor = lock_file(path)
    except BlockingIOError as error:
        raise ValueError(
            f"Another trainer, {_holder(path) or 'unknown'}, is running in {str(path.parent)!r}: wait until it has "
            "ended, or choose another --output_dir."
        ) from error
    except OSError as error:
        logger.warning("%s cannot be locked (%s): start no other run in it.", path.parent, error.strerror)
        return None
    with suppress(OSError):  # a full disk
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def _holder(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:  # it has just ended
        return ""
