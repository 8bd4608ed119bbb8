"""Run a program, and watch whether it goes on, and how much memory it takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

START = 240
"""Seconds that a program may take to its first result, on a busy machine: it imports torch and loads models."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    status: int
    """The exit status, or a signal's number below zero."""
    output: str
    errors: str
    hung: bool
    silence: float
    """The longest time without a sign of life after the first result, in seconds."""
    memory: float
    """The most memory of one of its processes, in bytes."""


def watch(
    command: Sequence[str], log: Path, results: Path, seconds: float, environment: dict[str, str] | None = None
) -> Ended:
    """Run a program until it ends, or has written nothing for `seconds`; then it is killed and says where it was.

    Args:
        command: the program and its arguments.
        log: an existing folder for what it writes to standard output and standard error.
        results: the folder of its results. When the first of them is there, models are loaded.
        seconds: how long it may go from then on without a new result, and without writing to `log`.
        environment: variables besides those of this process.
    """
    paths = log / "output", log / "errors"
    with open(paths[0], "wb") as output, open(paths[1], "wb") as errors:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=errors,
            start_new_session=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1", **(environment or {})},
        )
    silence, written, since = 0.0, 0, time.monotonic()
    hung = has_begun = False
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        time.sleep(0.1)
        made, now = len(os.listdir(results)) if results.is_dir() else 0, time.monotonic()
        size = made + sum(path.stat().st_size for path in paths)
        if size != written:
            written, since, has_begun = size, now, has_begun or made > 0
        elif has_begun:
            silence = max(silence, now - since)
        if not hung and now - since > (seconds if has_begun else START):
            hung = True
            os.kill(process.pid, signal.SIGABRT)
        if hung and now - since > (seconds if has_begun else START) + 5:
            os.killpg(process.pid, signal.SIGKILL)
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    output_text, errors_text = (path.read_text(errors="replace") for path in paths)
    memory = ended[2].ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Ended(process.returncode, output_text, errors_text, hung, silence, memory)
