"""What a run says of the time and the disk it needs, and of what comes next."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from diffusers_sr.training import progress
from diffusers_sr.training.arguments import TrainingArguments
from diffusers_sr.training.disk import checkpoint_bytes, say_disk, size
from diffusers_sr.training.last_line import next_stage, try_it
from diffusers_sr.training.progress import duration, with_progress


def test_times_are_in_the_unit_that_suits_them() -> None:
    assert [duration(seconds) for seconds in (0.4, 119, 120, 7199, 7200, 360_000)] == [
        "0 seconds", "119 seconds", "2.0 minutes", "120.0 minutes", "2.0 hours", "100.0 hours"
    ]  # fmt: skip
    assert [size(number) for number in (1500, 2_500_000, 41_000_000_000)] == ["1.5 kB", "2.5 MB", "41.0 GB"]


def test_the_last_line_is_a_command_for_the_shell() -> None:
    assert try_it("runs/a b") == (
        "The model is in runs/a b. Try it: diffusers-sr upscale photo.jpg --model 'runs/a b' --output enlarged.png"
    )
    assert next_stage("runs/dape", "train_seesr", "--tagger") == (
        "The result is in runs/dape, a part of a model. Next comes: accelerate launch --quiet "
        "training/train_seesr.py --tagger runs/dape ..."
    )


def test_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The clock is read at the start, and after each item; the third and the fifth come ten seconds after a line."""
    seconds = iter([0.0, 4.0, 8.0, 12.0, 16.0, 22.0, 23.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    assert [*with_progress("abcdef", 6, "letters")] == [*"abcdef"]
    assert capsys.readouterr().out == "3 of 6 letters, 12 seconds left\n5 of 6 letters, 4 seconds left\n"


def test_a_checkpoint_holds_weights_two_states_and_the_average() -> None:
    parameters = [*nn.Linear(3, 3).parameters()]  # 12 numbers of 4 bytes
    runs = (
        TrainingArguments(output_dir="runs"),
        TrainingArguments(output_dir="runs", ema_decay=0.9),
        TrainingArguments(output_dir="runs", use_8bit_adam=True),
    )
    assert [checkpoint_bytes(parameters, arguments) for arguments in runs] == [48 + 96, 48 + 96 + 48, 48 + 24]


def test_a_disk_that_is_too_small_is_said_before_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parameters, arguments = [*nn.Linear(3, 3).parameters()], TrainingArguments(output_dir="runs")
    for free, warnings in ((432, 0), (431, 1)):
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert say_disk(parameters, arguments) == (
            "disk: up to 3 checkpoints of 0.1 kB, and the result; 0.4 kB are free"
        )
        assert len(caplog.records) == warnings
    assert "runs has 0.4 kB free, but 3 checkpoints take 0.4 kB: free some, or give another" in caplog.text
