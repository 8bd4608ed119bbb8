"""Files that a process locks while it works.

The operating system forgets a lock when its process ends, however it ends.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None
"""Whether this system has such locks."""

_HELD = (errno.EACCES, errno.EAGAIN)


def lock_file(path: Path) -> int:
    """Open a file, which is made if it does not exist, and lock it. Child processes do not inherit the lock.

    Returns:
        Its descriptor, for `unlock_file`.

    Raises:
        BlockingIOError: if another process has locked it.
        OSError: if the disk has no locks, or the file cannot be written.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in _HELD:
                raise BlockingIOError(error.errno, "is locked by another process", str(path)) from error
            raise
        os.close(descriptor)  # its owner removed it between opening and locking


def unlock_file(path: Path, descriptor: int) -> None:
    """Remove a locked file, and close it."""
    path.unlink(missing_ok=True)  # while it is locked: afterwards it may be another's
    os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
