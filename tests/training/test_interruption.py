"""A run that is interrupted ends as the uninterrupted one."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_sr.training.checkpointing import MANIFEST, damage, remember_random_states
from tests import programs
from tests.training.interruptions import (
    Killed,
    assert_same,
    disk_full_between,
    draw_everywhere,
    kill_at,
    sigterm_at,
    state,
)
from tests.training.runs import Fit, fit


@pytest.mark.parametrize(
    ("stop", "checkpoint", "accumulation"),
    [(kill_at(6), 4, 1), (kill_at(11), 4, 2), (sigterm_at(5), 6, 1), (sigterm_at(10), 5, 2), (sigterm_at(11), 6, 2)],
    ids=["killed", "killed in accumulation", "SIGTERM", "SIGTERM in accumulation", "SIGTERM at its end"],
)
def test_interrupted_run_ends_as_the_uninterrupted_one(
    tmp_path: Path, stop: Callable[[int], None], checkpoint: int, accumulation: int
) -> None:
    options: dict[str, Any] = {"lr_scheduler": "cosine", "ema_decay": 0.9, "gradient_accumulation_steps": accumulation}
    whole = fit(tmp_path / "whole", Fit(draw_everywhere), **options)

    def before_batch(number: int) -> None:
        draw_everywhere(number)
        stop(number)

    interrupted = Fit(before_batch)
    with pytest.raises((Killed, SystemExit)) as caught:
        fit(tmp_path / "parts", interrupted, **options)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    newest = max(tmp_path.glob("parts/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert newest.name == f"checkpoint-{checkpoint}"

    resumed = fit(tmp_path / "parts", Fit(draw_everywhere), resume_from_checkpoint="latest", **options)
    assert interrupted.batches[: checkpoint * accumulation] + resumed.batches == whole.batches
    assert not torch.equal(whole.layer.weight, Fit().layer.weight)
    assert_same(whole.state_dict(), resumed.state_dict())
    ends = [state(tmp_path / run / "checkpoint-8") for run in ("whole", "parts")]
    # Each of it compared, and nothing else there; custom_checkpoint_0 is the average.
    assert sorted(ends[0]) == [
        "custom_checkpoint_0.pkl",
        "optimizer.bin",
        "random_states_0.pkl",
        "scheduler.bin",
        "trainable.safetensors",
    ]
    assert_same(*ends)
    # What the test compares would show a draw too many.
    assert ends[0]["random_states_0.pkl"]["random_state"] != state(newest)["random_states_0.pkl"]["random_state"]


SLOW_RUN = """
import sys, time
from pathlib import Path
from tests.training.runs import Fit, fit
slower = Fit(lambda number: time.sleep(0.02 if number < 10 else 0.5))
fit(Path(sys.argv[1]), slower, max_train_steps=10_000, ema_decay=0.9, dataloader_num_workers=1)
"""


def test_a_process_that_is_ended_from_outside_goes_on_exactly(tmp_path: Path) -> None:
    signals = (signal.SIGTERM, signal.SIGKILL)
    processes = [programs.start("-c", SLOW_RUN, tmp_path / number.name) for number in signals]
    try:
        for number, process in zip(signals, processes, strict=True):
            deadline = time.monotonic() + 120
            while not (tmp_path / number.name / "checkpoint-8").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            os.killpg(process.pid, number)  # with its loader worker, as a job scheduler ends them
        # SIGTERM leaves a checkpoint of the step it came in, which need not be a multiple of four.
        assert [process.wait() for process in processes] == [143, -signal.SIGKILL]
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    for number in signals:
        folder = tmp_path / number.name
        newest = max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
        assert newest >= 8
        options: dict[str, Any] = {"ema_decay": 0.9, "max_train_steps": newest + 3}
        resumed = fit(folder, resume_from_checkpoint="latest", **options)
        whole = fit(tmp_path / f"whole-{number.name}", **options)
        assert resumed.batches == whole.batches[newest:]
        ends = (path / f"checkpoint-{newest + 3}" for path in (folder, tmp_path / f"whole-{number.name}"))
        assert_same(*map(state, ends))


def test_sigterm_before_the_first_step_leaves_a_run_that_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fit(tmp_path, Fit(sigterm_at(0)), gradient_accumulation_steps=2)
    assert_same(fit(tmp_path, resume_from_checkpoint="latest").state_dict(), fit(tmp_path / "other").state_dict())


def test_sigterm_in_the_last_step_lets_the_run_end(tmp_path: Path) -> None:
    fit(tmp_path, Fit(sigterm_at(7)))
    assert (tmp_path / "layer.pt").exists()


def test_random_states_are_put_back() -> None:
    def draw() -> list[float]:
        return [random.random(), np.random.rand(), torch.rand(()).item()]

    restore = remember_random_states()
    first = draw()
    assert draw() != first
    restore()
    assert draw() == first


@pytest.mark.parametrize("size", [16, 8192], ids=["at the weights", "at the random states"])
def test_a_full_disk_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int) -> None:
    module = fit(tmp_path, Fit(disk_full_between(3, 4, size, tmp_path / "checkpoint-2")), checkpointing_steps=2)
    (error,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert "checkpoint-4 could not be written" in error.getMessage()
    assert sorted(path.name for path in tmp_path.glob("*checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]
    assert_same(module.state_dict(), fit(tmp_path / "other").state_dict())


def test_a_disk_that_stays_full_fails_at_the_end_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    limit = disk_full_between(3, -1, after=tmp_path / "checkpoint-2")

    def save(folder: Path) -> None:
        (folder / "x").write_bytes(bytes(10_000))

    try:
        with pytest.raises((OSError, RuntimeError)):
            fit(tmp_path, Fit(limit), checkpointing_steps=2, save=save)
    finally:
        disk_full_between(-1, 0)(0)
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-2"]
    assert damage(tmp_path / "checkpoint-2") is None
    assert not (tmp_path / "x").exists()
    resumed = fit(tmp_path, resume_from_checkpoint="latest")
    assert_same(resumed.state_dict(), fit(tmp_path / "other").state_dict())


def test_sigterm_on_a_full_disk_does_not_claim_a_checkpoint(tmp_path: Path) -> None:
    limit, terminate = disk_full_between(5, -1, after=tmp_path / "checkpoint-4"), sigterm_at(5)
    try:
        with pytest.raises(SystemExit, match="no checkpoint could be written"):
            fit(tmp_path, Fit(lambda number: (limit(number), terminate(number))))
    finally:
        disk_full_between(-1, 0)(0)
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-4"]


@pytest.mark.parametrize("change", [{"train_batch_size": 2}, {"gradient_accumulation_steps": 3}])
def test_other_batches_go_on_with_the_next_sample(tmp_path: Path, change: dict[str, Any]) -> None:
    fit(tmp_path, max_train_steps=4)
    resumed = fit(tmp_path, resume_from_checkpoint="latest", max_train_steps=6, **change)
    samples = 2 * change.get("train_batch_size", 4) * change.get("gradient_accumulation_steps", 1)
    assert [seed for batch in resumed.batches for seed in batch] == list(range(16, 16 + samples))
    progress = json.loads((tmp_path / "checkpoint-6" / MANIFEST).read_text())["progress"]
    assert progress == {"step": 6, "samples": 16 + samples, "num_processes": 1}


def test_another_number_of_processes_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path, max_train_steps=4)
    path = tmp_path / "checkpoint-4" / MANIFEST
    path.write_text(path.read_text().replace('"num_processes": 1', '"num_processes": 2'))
    fit(tmp_path, resume_from_checkpoint="latest")
    assert "was written by 2 process(es), this run has 1" in caplog.text
