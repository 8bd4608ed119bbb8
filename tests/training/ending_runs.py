"""Runs that fail, by test_ending.py.

`python tests/training/ending_runs.py FOLDER CASE...` runs cases such as `worker-2`: where the error arises, and the
number of loader workers.
Importing takes longest, so it is done once: every run is a fork, which ends as a process of its own would. Its output
goes to FOLDER/CASE/log, its exit status, and whether any of its processes were left, to FOLDER/CASE/end.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

from torch import Tensor

from tests.training import runs

LIMIT = 60


class Rows(runs.Points):
    """Points, of which a worker cannot read all."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if self.where == "worker" and index >= 40:
            raise ValueError("row 40 is bad")
        if self.where == "killed" and index == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.where == "slow" and index >= 40:
            time.sleep(1000)
        if self.where == "stuck" and index >= 40:  # as in a read from a disk that does not answer
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            time.sleep(1000)
        return super().__getitem__(index)


def run_trainer(folder: Path, workers: int) -> None:
    """Run a trainer, none of whose photos can be read."""
    (folder / "photos").mkdir()
    for number in range(3):
        (folder / "photos" / f"{number}.png").write_bytes(b"no image")
    path = str(runs.TRAINING / "train_autoencoder.py")
    sys.argv = [
        path, "--train_data_dir", str(folder / "photos"), "--output_dir", str(folder / "run"), "--resolution", "32",
        "--block_out_channels", "8", "8", "--dataloader_num_workers", str(workers),
    ]  # fmt: skip
    runpy.run_path(path, run_name="__main__")


def run(folder: Path, where: str, workers: int) -> None:
    def before_batch(number: int) -> None:
        if number == 4 and where == "main":
            raise ValueError("step 4 is bad")
        if number == 4 and where == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        if number == 7 and where in ("slow", "stuck"):
            raise ValueError("step 7 is bad")

    runs.Points = lambda: Rows(where)  # type: ignore[assignment,misc]
    runs.fit(folder / "run", runs.Fit(before_batch), dataloader_num_workers=workers, max_train_steps=1000)


def watch(pid: int, folder: Path) -> None:
    """Wait for a run, and kill it with its workers at the limit."""
    start = time.monotonic()
    ended, status = os.waitpid(pid, os.WNOHANG)
    while not ended and time.monotonic() < start + LIMIT:
        time.sleep(0.05)
        ended, status = os.waitpid(pid, os.WNOHANG)
    try:
        os.killpg(pid, signal.SIGKILL)
        is_left = True
    except ProcessLookupError:
        is_left = False
    if not ended:
        os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status) if ended else None
    (folder / "end").write_text(json.dumps({"code": code, "is_left": is_left}))


def main(root: Path, cases: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which what a shell runs in the background ignores
    gc.freeze()  # or each fork would copy the memory that it looks for garbage in
    started: list[tuple[int, Path]] = []
    for case in cases:
        where, workers = case.split("-")
        folder = root / case
        folder.mkdir()
        pid = os.fork()
        if pid == 0:
            log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.setpgid(0, 0)
            # With its error this process goes on to its end.
            if where == "photos":
                run_trainer(folder, int(workers))
            else:
                run(folder, where, int(workers))
            return
        started.append((pid, folder))
    for pid, folder in started:
        watch(pid, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
