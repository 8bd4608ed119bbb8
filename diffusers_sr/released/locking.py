"""One process at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Inside the `with` block, keep other processes out of theirs for the same path; wait for one that is in it.

    The operating system forgets the lock when the process ends, however it ends.

    Args:
        path: the lock's file, which stays.
        what: what messages call that which is locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("Another process is at %s: waiting for it.", what)
            lock.acquire()
    except NotImplementedError:  # a disk without locks
        logger.warning("%s cannot be locked on this disk: start no other process that needs it.", what)
    try:
        yield
    finally:
        lock.release()
