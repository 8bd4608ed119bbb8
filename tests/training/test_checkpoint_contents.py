"""The files of a checkpoint: what they hold, which is the newest, and whose model it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffusers_sr.training.checkpointing import MANIFEST, damage, list_checkpoints, move_over
from tests.training.runs import Fit, fit

FILES = ["optimizer.bin", "random_states_0.pkl", "scheduler.bin", "trainable.safetensors"]


def test_a_checkpoint_holds_what_trains_and_not_what_is_frozen(tmp_path: Path) -> None:
    module = fit(tmp_path)
    folder = tmp_path / "checkpoint-8"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == sorted([MANIFEST, *FILES])
    weights = load_file(folder / "trainable.safetensors")
    assert {name: list(tensor.shape) for name, tensor in weights.items()} == {
        "layer.weight": [3, 3],
        "layer.bias": [3],
    }
    assert torch.equal(weights["layer.weight"], module.layer.weight)
    # Nine weights and three biases in float32: 48 bytes behind a header.
    assert (folder / "trainable.safetensors").stat().st_size < 48 + 256


def test_the_manifest_says_how_far_a_run_is_and_what_its_files_are(tmp_path: Path) -> None:
    fit(tmp_path)
    manifest = json.loads((tmp_path / "checkpoint-8" / MANIFEST).read_text())
    assert manifest["progress"] == {"step": 8, "samples": 32, "num_processes": 1}
    assert sorted(manifest["files"]) == FILES
    assert list(manifest) == ["progress", "arguments", "files"]


def test_damage_is_told_from_size_and_checksum(tmp_path: Path) -> None:
    # The check value in the definition of CRC-32.
    files = {"folder/weights": "9 bytes with CRC-32 cbf43926"}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights").write_bytes(b"123456789")
    (tmp_path / MANIFEST).write_text(json.dumps({"files": files}))
    assert damage(tmp_path) is None
    (tmp_path / "folder" / "weights").write_bytes(b"")
    assert damage(tmp_path) == (
        "folder/weights is 0 bytes with CRC-32 00000000, but was 9 bytes with CRC-32 cbf43926 when it was written"
    )


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (1000, 8, 10, 200):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "damaged-checkpoint-9").mkdir()
    (tmp_path / "unfinished-checkpoint").mkdir()
    assert [path.name.split("-")[1] for path in list_checkpoints(tmp_path)] == ["8", "10", "200", "1000"]


def test_a_run_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path, checkpointing_steps=1, checkpoints_total_limit=3, max_train_steps=10)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-10",
        "checkpoint-8",
        "checkpoint-9",
    ]
    resumed = fit(tmp_path, resume_from_checkpoint="latest", max_train_steps=11)
    assert resumed.batches == [[40, 41, 42, 43]]


def test_what_is_renamed_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of_{name}").write_text(name)
    move_over(tmp_path / "new", tmp_path / "old")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["old", "old/of_new"]
    (tmp_path / "file").write_text("new file")
    (tmp_path / "other").write_text("other")
    move_over(tmp_path / "file", tmp_path / "other")
    assert (tmp_path / "other").read_text() == "new file" and not (tmp_path / "file").exists()


def with_another_layer() -> Fit:
    module = Fit()
    module.other = nn.Linear(3, 3)
    return module


def with_its_frozen_layer_training() -> Fit:
    module = Fit()
    module.frozen.requires_grad_(True)
    return module


def with_one_output() -> Fit:
    module = Fit()
    module.layer = nn.Linear(3, 1)
    return module


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        (Fit, with_another_layer),
        (with_another_layer, Fit),
        (Fit, with_its_frozen_layer_training),
        (with_its_frozen_layer_training, Fit),
        (with_one_output, Fit),  # [1, 3] would be repeated to [3, 3]
        (Fit, with_one_output),
    ],
    ids=["more", "fewer", "more of the same", "fewer of the same", "smaller", "larger"],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, saved: type[Fit], resumed: type[Fit]) -> None:
    fit(tmp_path, saved(), max_train_steps=4)
    module = resumed()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"checkpoint-4 holds other parameters than this run trains"):
        fit(tmp_path, module, resume_from_checkpoint="latest")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not module.batches
