import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusers_sr.training.checkpointing import MANIFEST, damage, remember_random_states
from tests.training.runs import Fit, fit

resource = pytest.importorskip("resource")  # of POSIX systems


class Killed(BaseException):
    """In the place of a process that is gone from one moment to the next."""


def kill_at(batch: int) -> Callable[[int], None]:
    def before_batch(number: int) -> None:
        if number == batch:
            raise Killed

    return before_batch


def sigterm_at(batch: int) -> Callable[[int], None]:
    return lambda number: os.kill(os.getpid(), signal.SIGTERM) if number == batch else None


def draw_everywhere(number: int) -> None:
    """As a step may that draws from Python's and numpy's generators."""
    random.random()
    np.random.rand()


def state(checkpoint: Path) -> dict[str, Any]:
    """Everything that is in a checkpoint: weights, optimizer, schedule, average, random states."""
    return {
        path.name: load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=False)
        for path in checkpoint.iterdir()
        if path.name != MANIFEST
    }


def assert_same(a: Any, b: Any) -> None:
    """Equal bit by bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    elif isinstance(a, (torch.Tensor, np.ndarray)):
        assert bool((a == b).all())
    else:
        assert a == b


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
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    signals = (signal.SIGTERM, signal.SIGKILL)
    runs = {
        number: subprocess.Popen(
            [sys.executable, "-c", SLOW_RUN, str(tmp_path / number.name)], env=environment, start_new_session=True
        )
        for number in signals
    }
    try:
        for number, process in runs.items():
            deadline = time.monotonic() + 120
            while not (tmp_path / number.name / "checkpoint-8").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            os.killpg(process.pid, number)  # with its loader worker, as a job scheduler ends them
        # SIGTERM leaves a checkpoint of the step it came in, which need not be a multiple of four.
        assert [process.wait(60) for process in runs.values()] == [143, -signal.SIGKILL]
    finally:
        for process in runs.values():
            process.kill()
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


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    fit(tmp_path, checkpointing_steps=2, checkpoints_total_limit=2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]
    assert json.loads((tmp_path / "training_arguments.json").read_text())["checkpointing_steps"] == 2


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    named: list[bool] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        named.append((tmp_path / "checkpoint-4").exists())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    fit(tmp_path, max_train_steps=4)
    folder = tmp_path / "checkpoint-4"
    before = {inode for inode, has_name in zip(flushed, named, strict=True) if not has_name}
    assert {path.stat().st_ino for path in (folder, *folder.iterdir())} == before
    assert flushed[-1] == tmp_path.stat().st_ino and named[-1]


def test_what_was_broken_off_while_it_was_saved_is_no_checkpoint(tmp_path: Path) -> None:
    whole = fit(tmp_path)
    (tmp_path / "checkpoint-8").rename(tmp_path / "unfinished-checkpoint")
    (tmp_path / "unfinished-checkpoint" / "optimizer.bin").write_bytes(b"half")
    (tmp_path / "unfinished-checkpoint" / "left_over").write_bytes(b"")
    resumed = fit(tmp_path, resume_from_checkpoint="latest")
    assert len(resumed.batches) == 4
    assert_same(whole.state_dict(), resumed.state_dict())
    assert damage(tmp_path / "checkpoint-8") is None
    assert not (tmp_path / "checkpoint-8" / "left_over").exists()
    assert not (tmp_path / "unfinished-checkpoint").exists()


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        (cut_off, "optimizer.bin"),
        (flip_a_bit, "trainable.safetensors"),
        (Path.unlink, "random_states_0.pkl"),
        (Path.unlink, MANIFEST),
        (lambda path: path.write_text(path.read_text()[:20]), MANIFEST),
    ],
    ids=["shorter", "bit", "missing", "no manifest", "half a manifest"],
)
def test_a_damaged_checkpoint_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], object], name: str
) -> None:
    whole = fit(tmp_path)
    assert damage(tmp_path / "checkpoint-8") is None
    harm(tmp_path / "checkpoint-8" / name)
    with pytest.raises(ValueError, match="is damaged"):
        fit(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    caplog.clear()
    resumed = fit(tmp_path, resume_from_checkpoint="latest")
    assert "checkpoint-8 is damaged and left out" in caplog.text and name in caplog.text
    assert len(resumed.batches) == 4
    assert_same(whole.state_dict(), resumed.state_dict())
    assert (tmp_path / "damaged-checkpoint-8").is_dir()
    assert damage(tmp_path / "checkpoint-8") is None


def test_a_run_does_not_start_anew_when_all_its_checkpoints_are_damaged(tmp_path: Path) -> None:
    fit(tmp_path)
    for step in (4, 8):
        (tmp_path / f"checkpoint-{step}" / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"All checkpoints in .* are damaged"):
        fit(tmp_path, resume_from_checkpoint="latest")


def disk_full_between(first: int, last: int, size: int = 8192) -> Callable[[int], None]:
    """No file can grow beyond `size` bytes from batch `first` to before batch `last`, as on a full disk."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def before_batch(number: int) -> None:
        if number == first:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        if number == last:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    return before_batch


@pytest.mark.parametrize("size", [16, 8192], ids=["at the weights", "at the random states"])
def test_a_full_disk_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int) -> None:
    module = fit(tmp_path, Fit(disk_full_between(3, 4, size)), checkpointing_steps=2)
    (error,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert "checkpoint-4 could not be written" in error.getMessage()
    assert sorted(path.name for path in tmp_path.glob("*checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]
    assert_same(module.state_dict(), fit(tmp_path / "other").state_dict())


def test_a_disk_that_stays_full_fails_at_the_end_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    limit = disk_full_between(3, -1)

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
    limit, terminate = disk_full_between(5, -1), sigterm_at(5)
    try:
        with pytest.raises(SystemExit, match="no checkpoint could be written"):
            fit(tmp_path, Fit(lambda number: (limit(number), terminate(number))))
    finally:
        disk_full_between(-1, 0)(0)
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-4"]


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no checkpoint"):
        fit(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-99"))


def test_checkpoints_of_another_run_are_not_overwritten(tmp_path: Path) -> None:
    fit(tmp_path)
    with pytest.raises(ValueError, match=r"already holds \['checkpoint-4', 'checkpoint-8'\]"):
        fit(tmp_path)
    with pytest.raises(ValueError, match=r"already holds \['checkpoint-8'\]"):
        fit(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_save_that_failed_can_be_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half.pt").write_bytes(b"")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fit(tmp_path, save=fail)
    assert not list(tmp_path.glob("**/half.pt"))
    resumed = fit(tmp_path, resume_from_checkpoint="latest")
    assert not resumed.batches
    weights = torch.load(tmp_path / "layer.pt", weights_only=True)
    assert_same(weights["weight"], fit(tmp_path / "other").state_dict()["layer.weight"])


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
    assert "is of 2 process(es), this run has 1" in caplog.text


def test_the_result_is_published_when_it_is_saved(tmp_path: Path) -> None:
    def publish(folder: Path) -> None:
        published.append(sorted(path.name for path in folder.iterdir()))

    published: list[list[str]] = []
    fit(tmp_path, publish=publish)
    assert published == [["checkpoint-4", "checkpoint-8", "layer.pt", "training_arguments.json"]]
    with pytest.raises(SystemExit):
        fit(tmp_path / "interrupted", Fit(sigterm_at(5)), publish=publish)
    assert len(published) == 1
