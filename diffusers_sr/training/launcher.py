"""What `accelerate launch` does not do itself: tell the training that it is ended."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """Let this process get SIGTERM when the `accelerate launch` that started it ends (on Linux).

    A launcher of several processes passes SIGTERM on; that of a single process dies of it and would leave this one
    behind. If anything else started this process, nothing changes: it outlives its shell.
    """
    if sys.platform != "linux" or "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return
    with suppress(OSError):
        command = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
        if b"accelerate" in command:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
