"""A user's output folder: what is in it besides a run's own, and two runs in one."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from diffusers_sr.training.checkpointing import MANIFEST
from diffusers_sr.training.folder_lock import LOCK_FILE, locked
from tests import programs
from tests.training.interruptions import Killed, assert_same, kill_at
from tests.training.runs import Fit, fit

STRAY = (
    "checkpoint-1 (copy)",
    "checkpoint-7-backup",
    "checkpoint-best",
    "checkpoint-",
    "checkpoint-007",
    "checkpoint",
)


def stray(folder: Path) -> None:
    """Folders and a file of a user, that are named almost like checkpoints."""
    for name in STRAY:
        (folder / name).mkdir(parents=True)
        (folder / name / "mine").write_text(name)
    (folder / "checkpoint-3.zip").write_text("packed")
    (folder / "checkpoint-5").write_text("a file")


def assert_untouched(folder: Path) -> None:
    for name in STRAY:
        assert [path.name for path in (folder / name).iterdir()] == ["mine"]
    assert (folder / "checkpoint-3.zip").read_text() == "packed"
    assert (folder / "checkpoint-5").read_text() == "a file"


def names(folder: Path) -> list[str]:
    return sorted({path.name for path in folder.iterdir()} - {*STRAY, "checkpoint-3.zip", "checkpoint-5"})


def test_what_is_named_almost_like_a_checkpoint_is_neither_counted_nor_removed(tmp_path: Path) -> None:
    stray(tmp_path)
    fit(tmp_path, checkpointing_steps=2)
    assert names(tmp_path) == ["checkpoint-6", "checkpoint-8", "layer.pt", "training_arguments.json"]
    assert_untouched(tmp_path)
    resumed = fit(tmp_path, resume_from_checkpoint="latest", max_train_steps=9)
    assert len(resumed.batches) == 1
    assert_untouched(tmp_path)


def test_only_what_a_trainer_wrote_is_removed(tmp_path: Path) -> None:
    fit(tmp_path / "whole", max_train_steps=4)
    fit(tmp_path / "run", max_train_steps=4)
    run = tmp_path / "run"
    (run / "checkpoint-1").mkdir()
    (run / "checkpoint-1" / "mine").write_text("of another program")
    shutil.copytree(run / "checkpoint-4", run / "checkpoint-2")  # of another step than its name says
    (run / "checkpoint-3").mkdir()
    (run / "checkpoint-3" / MANIFEST).write_text("[]")
    (run / "checkpoint-0").symlink_to(tmp_path / "whole" / "checkpoint-4")
    fit(run, resume_from_checkpoint="latest", checkpointing_steps=1, checkpoints_total_limit=1)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [
        "checkpoint-0", "checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-8"
    ]  # fmt: skip
    assert (tmp_path / "whole" / "checkpoint-4" / MANIFEST).is_file()


def test_a_checkpoint_of_any_name_can_be_resumed_from(tmp_path: Path) -> None:
    whole = fit(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-8")
    (tmp_path / "checkpoint-4").rename(tmp_path / "best")
    resumed = fit(tmp_path, resume_from_checkpoint=str(tmp_path / "best"))
    assert len(resumed.batches) == 4
    assert_same(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"files": []}', '{"files": {}}', '{"files": {}, "progress": 1}'])
def test_a_manifest_of_another_form_is_damage(tmp_path: Path, manifest: str) -> None:
    fit(tmp_path)
    (tmp_path / "checkpoint-8" / MANIFEST).write_text(manifest)
    with pytest.raises(ValueError, match=r"is damaged \(manifest.json does not say"):
        fit(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert len(fit(tmp_path, resume_from_checkpoint="latest").batches) == 4


def test_what_was_put_aside_stays_when_more_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "damaged-checkpoint-8").mkdir(parents=True)
    (tmp_path / "damaged-checkpoint-8" / "mine").write_text("")
    for _ in range(2):
        fit(tmp_path, resume_from_checkpoint="latest")
        (tmp_path / "checkpoint-8" / MANIFEST).unlink()
    fit(tmp_path, resume_from_checkpoint="latest")
    assert (tmp_path / "damaged-checkpoint-8" / "mine").is_file()
    assert sorted(path.name for path in tmp_path.glob("damaged-*")) == [
        "damaged-checkpoint-8", "damaged-checkpoint-8-2", "damaged-checkpoint-8-3"
    ]  # fmt: skip


LONG_RUN = """
import sys, time
from pathlib import Path
from tests.training.runs import Fit, fit
fit(Path(sys.argv[1]), Fit(lambda number: time.sleep(0.1)), max_train_steps=10_000, dataloader_num_workers=1)
"""


def test_a_second_trainer_in_the_folder_of_a_running_one_is_refused(tmp_path: Path) -> None:
    process = programs.start("-c", LONG_RUN, tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("checkpoint-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        before = sorted(path.name for path in tmp_path.iterdir())
        for resume in (None, "latest"):
            with pytest.raises(ValueError, match=rf"Another trainer, process {process.pid} on .*, is running in"):
                fit(tmp_path, resume_from_checkpoint=resume)
        assert LOCK_FILE in before
        # Only the trainer itself: its worker lives on for seconds.
        process.send_signal(signal.SIGKILL)
        process.wait()
        newest = max(int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*"))
        resumed = fit(tmp_path, resume_from_checkpoint="latest", max_train_steps=newest + 1)
        assert len(resumed.batches) == 1
    finally:
        process.send_signal(signal.SIGKILL)


def test_a_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, Fit(kill_at(5)))
    assert not (tmp_path / LOCK_FILE).exists()
    fit(tmp_path, resume_from_checkpoint="latest")


def test_a_lock_file_that_was_left_behind_locks_nothing(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("process 1 on another machine")
    fit(tmp_path)
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_lock_says_who_holds_it(tmp_path: Path) -> None:
    with locked(tmp_path / "new"):
        assert (tmp_path / "new" / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")
    assert list((tmp_path / "new").iterdir()) == []
