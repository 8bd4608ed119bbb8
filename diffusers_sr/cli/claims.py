"""What keeps two commands on one folder from making a result twice, where both keep existing results."""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..image.locks import CAN_LOCK, lock_file, unlock_file
from .files import is_done


@dataclass
class Claim:
    """A process's right to make a result, which ends with `release` or with the process."""

    path: Path
    """A locked file among the temporary ones of this machine: nothing is added to the folder of the results."""
    descriptor: int | None
    """None on a system or disk without locks, where others may make the result, too."""

    def release(self) -> None:
        """Let others make the result."""
        if self.descriptor is not None:
            unlock_file(self.path, self.descriptor)


def claim(target: Path) -> Claim:
    """Claim the result at a path.

    Raises:
        BlockingIOError: if another process of this machine and user is making it.
    """
    name = hashlib.blake2b(str(target.resolve()).encode(errors="surrogateescape"), digest_size=16).hexdigest()
    if not CAN_LOCK:
        return Claim(target, None)
    path = Path(tempfile.gettempdir(), f"diffusers-sr-{os.getuid()}", f"{name}.lock")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return Claim(path, lock_file(path))
    except BlockingIOError:
        raise
    except OSError:
        return Claim(path, None)


def claim_missing(options: argparse.Namespace, target: Path) -> Claim | None:
    """Claim a result; None if another command is making it, or has made it since this one began."""
    try:
        own = claim(target)
    except BlockingIOError:
        return None
    if is_done(options, target):
        own.release()
        return None
    return own
