"""One trainer in an output folder at a time."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK_FILE = ".training.lock"
_HELD = (errno.EACCES, errno.EAGAIN)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside the `with` block, keep other trainers out of a folder, which is made if it does not exist.

    The operating system forgets the lock when the process ends, however it ends. Loader workers do not inherit it.

    Raises:
        ValueError: if another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        logger.warning("%s cannot be locked on this system: start no other run in it.", folder)
        yield
        return
    path = folder / LOCK_FILE
    descriptor = _locked_file(path)
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)  # while it is locked: afterwards it may be another's
            os.close(descriptor)


def _locked_file(path: Path) -> int | None:
    """Open a file and lock it; None, with a warning, if the disk has no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                with suppress(OSError):  # a full disk
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        except OSError as error:
            holder = os.pread(descriptor, 300, 0).decode(errors="replace")
            os.close(descriptor)
            if error.errno in _HELD:
                raise ValueError(
                    f"Another trainer, {holder or 'unknown'}, is running in {str(path.parent)!r}: wait until it has "
                    "ended, or choose another --output_dir."
                ) from error
            logger.warning("%s cannot be locked (%s): start no other run in it.", path.parent, error.strerror)
            return None
        os.close(descriptor)  # its owner removed it between opening and locking


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
