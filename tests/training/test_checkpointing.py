"""Checkpoints: when they are there, whole, damaged, removed or another run's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import torch

from diffusers_sr.training.checkpointing import MANIFEST, damage
from tests.training.interruptions import assert_same, sigterm_at
from tests.training.runs import Fit, fit


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


def test_the_run_goes_on_while_a_checkpoint_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, fsync = Event(), os.fsync
    waited: list[bool] = []

    def wait(descriptor: int) -> None:
        if not waited:
            waited.append(goes_on.wait(5))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    module = fit(tmp_path, Fit(lambda number: goes_on.set() if number == 5 else None))
    assert waited == [True]
    assert [path.name for path in sorted(tmp_path.glob("*checkpoint-*"))] == ["checkpoint-4", "checkpoint-8"]
    assert damage(tmp_path / "checkpoint-4") is None
    resumed = fit(tmp_path / "again", max_train_steps=8)
    assert_same(module.state_dict(), resumed.state_dict())


def test_a_checkpoint_that_the_disk_refuses_in_the_end_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if (tmp_path / "unfinished-checkpoint" / MANIFEST).exists() and not (tmp_path / "checkpoint-4").exists():
            raise OSError("No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SystemExit, match="no checkpoint could be written"):
        fit(tmp_path, Fit(sigterm_at(5)))
    assert "checkpoint-4 could not be written" in caplog.text and "checkpoint-6 could not" in caplog.text
    assert not [*tmp_path.glob("*checkpoint*")]


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


def test_the_result_is_published_when_it_is_saved(tmp_path: Path) -> None:
    def publish(folder: Path) -> None:
        published.append(sorted(path.name for path in folder.iterdir()))

    published: list[list[str]] = []
    fit(tmp_path, publish=publish)
    assert published == [["checkpoint-4", "checkpoint-8", "layer.pt", "training_arguments.json"]]
    with pytest.raises(SystemExit):
        fit(tmp_path / "interrupted", Fit(sigterm_at(5)), publish=publish)
    assert len(published) == 1
