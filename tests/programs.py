"""Programs in processes of their own, which begin as forks of a process that has imported what takes long.

Importing takes seconds, and a small run far less. Apart from that a program runs as if Python had been started for it:
it has its own arguments, folder, environment and output, and ends as an interpreter does, with its exit handlers and
with its traceback or signal.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Program:
    """A program that was started.

    Attributes:
        pid: its process, which leads a session of its own.
        returncode: as `subprocess` has it; None while it runs.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Give the exit status, negative for a signal, or None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float = 240) -> int:
        """Wait for the end, and give the exit status."""
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            assert time.monotonic() < end, f"process {self.pid} still runs"
            time.sleep(0.005)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def start(
    *words: str | os.PathLike[str],
    environment: Mapping[str, str] | None = None,
    output: str | os.PathLike[str] = os.devnull,
    errors: str | os.PathLike[str] = os.devnull,
) -> Program:
    """Start a program in the current folder.

    Args:
        words: as Python takes them: `-m` and a module, `-c` and code, or a file; and its arguments.
        environment: variables besides those of this process.
        output, errors: where what it prints goes: new files, or those of a device.
    """
    request = {
        "words": [os.fspath(word) for word in words],
        "folder": os.getcwd(),
        "environment": {**os.environ, **(environment or {})},
        "streams": [os.path.abspath(output), os.path.abspath(errors)],
    }
    return Program(_ask(request))


def run(
    *words: str | os.PathLike[str], environment: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as `subprocess.run` does. See `start`."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = (Path(folder, name) for name in ("output", "errors"))
        status = start(*words, environment=environment, output=output, errors=errors).wait(timeout)
        return subprocess.CompletedProcess(list(words), status, output.read_text(), errors.read_text())


@functools.cache
def _origin() -> subprocess.Popen[str]:
    """Start the process that programs are forked from; it ends with this one."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.program_origin"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(request: dict[str, Any]) -> Any:
    origin = _origin()
    assert origin.stdin is not None and origin.stdout is not None
    origin.stdin.write(json.dumps(request) + "\n")
    origin.stdin.flush()
    return json.loads(origin.stdout.readline())
