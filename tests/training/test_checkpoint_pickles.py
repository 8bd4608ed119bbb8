"""Checkpoints of strangers: what is pickled in them does not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_sr.training.checkpointing import MANIFEST, damage, fingerprint
from tests.publishing.hostile import Code
from tests.training.interruptions import assert_same
from tests.training.runs import fit

PICKLES = ["custom_checkpoint_0.pkl", "optimizer.bin", "random_states_0.pkl", "scheduler.bin"]


def replace(checkpoint: Path, name: str, content: Any, zipped: bool) -> None:
    """Replace a file of a checkpoint, and what the manifest says about it: a stranger writes that, too."""
    torch.save(content, checkpoint / name, _use_new_zipfile_serialization=zipped)
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest["files"][name] = fingerprint(checkpoint / name)
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    assert damage(checkpoint) is None


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("resume_from", ["latest", "checkpoint-8"])
@pytest.mark.parametrize("name", PICKLES)
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, name: str, resume_from: str, zipped: bool) -> None:
    fit(tmp_path, ema_decay=0.5)
    folder = tmp_path / "checkpoint-8"
    assert (folder / name).exists()
    mark = tmp_path / "it-ran"
    replace(folder, name, Code(f"open({str(mark)!r}, 'w').close()"), zipped)
    if resume_from != "latest":
        resume_from = str(tmp_path / resume_from)
    with pytest.raises(ValueError, match="holds more than weights and states"):
        fit(tmp_path, ema_decay=0.5, resume_from_checkpoint=resume_from)
    assert not mark.exists()


def test_a_run_with_an_average_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    whole = fit(tmp_path / "whole", ema_decay=0.5)
    fit(tmp_path / "parts", ema_decay=0.5, max_train_steps=4)
    resumed = fit(tmp_path / "parts", ema_decay=0.5, resume_from_checkpoint="latest")
    assert len(resumed.batches) == 4
    assert_same(whole.state_dict(), resumed.state_dict())
    (tmp_path / "anything").mkdir()
    torch.save(Path("a"), tmp_path / "anything" / "path")
    assert torch.load(tmp_path / "anything" / "path", weights_only=False) == Path("a"), "elsewhere all is as it was"
