"""The temporary files that results are written to until they are complete, and those that killed runs left behind."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MACHINE = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
_NAME = re.compile(rf"\.diffusers-sr-{_MACHINE}-(\d+)-[0-9a-f]+\.partial")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the path to write to; after the block the file replaces `path`, or is removed if there was an error.

    Its name is short, however long that of `path` is, and says which process of which machine writes it.
    """
    part = hashlib.blake2b(f"{path.name}/{threading.get_ident()}".encode(errors="surrogateescape"), digest_size=8)
    temporary = path.with_name(f".diffusers-sr-{_MACHINE}-{os.getpid()}-{part.hexdigest()}.partial")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_left_over(folder: Path) -> None:
    """Remove the temporary files in a folder whose process, on this machine, no longer lives."""
    if os.name != "posix":  # elsewhere asking for a process by a signal can end it
        return
    with suppress(OSError):
        for path in folder.iterdir():
            name = _NAME.fullmatch(path.name)
            if name is not None and not _lives(int(name[1])):
                path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
