"""Checkpoints of foreign trainings: only their weights are read, and nothing in them is run."""

from __future__ import annotations

import collections
import pickle
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch

from diffusers_sr.conversion.checkpoints import read_state_dict


class Call:
    """An object that has a function called when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.fixture
def lightning_callback(monkeypatch) -> type:
    """A class that is there for writing a file, and not for reading it."""
    module = types.ModuleType("pytorch_lightning_of_old")
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    vars(module)["ModelCheckpoint"] = callback
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return callback


@pytest.mark.parametrize("name", ["state_dict", "model"])
def test_weights_beside_other_things(tmp_path, name):
    weights = collections.OrderedDict(a=torch.ones(2), b=torch.zeros(1))
    content = {name: weights, "epoch": 3, "optimizer_states": [{"state": {0: {"step": 7}}}], "best": None}
    torch.save(content, tmp_path / "model.ckpt")
    read = read_state_dict(tmp_path / "model.ckpt")
    assert list(read) == list(weights)
    assert all(torch.equal(read[key], weights[key]) for key in weights)


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_by_name(tmp_path, zipped):
    torch.save({"a": torch.ones(2)}, tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_state_dict(tmp_path / "model.ckpt")["a"], torch.ones(2))


def test_classes_and_objects_beside_the_weights_are_not_needed(tmp_path, monkeypatch, lightning_callback):
    callback = lightning_callback()
    callback.state = {"best": torch.ones(1)}
    torch.save(
        {
            "callbacks": {lightning_callback: {"best_model_score": torch.ones(1)}, "object": callback},
            "call": Call(shutil.rmtree, str(tmp_path)),
            "state_dict": {"a": torch.full((2,), 3.0)},
        },
        tmp_path / "last.ckpt",
    )
    monkeypatch.delitem(sys.modules, lightning_callback.__module__)
    allowed = torch.serialization.get_safe_globals()
    with pytest.raises(pickle.UnpicklingError, match="ModelCheckpoint"):
        torch.load(tmp_path / "last.ckpt", weights_only=True)
    weights = read_state_dict(tmp_path / "last.ckpt")
    assert list(weights) == ["a"]
    assert torch.equal(weights["a"], torch.full((2,), 3.0))
    assert tmp_path.is_dir(), "what the pickle calls was run"
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.ones(1), "b": Call(shutil.rmtree, "x")}}, "'b': shutil.rmtree.*is never run"),
        ({"state_dict": {"a": torch.ones(1), "b": 3}}, "it holds 'b': int"),
        ({"state_dict": [torch.ones(1)]}, "holds a list, expected a dictionary of tensors"),
        (torch.ones(1), "holds a Tensor, expected a dictionary of tensors"),
        ({"a": torch.ones(1), "epoch": 2, "step": 5}, "it holds 'epoch': int, 'step': int"),
        ({"a": torch.ones(1), "b": collections.defaultdict(int, c=1)}, "defaultdict"),
    ],
)
def test_weights_that_are_no_tensors(tmp_path, content, message):
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=rf"model.ckpt .*{message}.*") as error:
        read_state_dict(tmp_path / "model.ckpt")
    assert "Save its state dict alone, preferably as safetensors." in str(error.value)
    assert "trust" not in str(error.value)


def test_the_older_format_with_classes(tmp_path, lightning_callback):
    content = {"state_dict": {"a": torch.ones(1)}, "callbacks": {lightning_callback: 1}}
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"never run.*GLOBAL pytorch_lightning_of_old.ModelCheckpoint") as error:
        read_state_dict(tmp_path / "old.ckpt")
    assert "trust" not in str(error.value)


def test_weights_are_mapped_and_not_written_back(tmp_path):
    path = Path(tmp_path / "model.ckpt")
    torch.save({"state_dict": {"a": torch.ones(2)}}, path)
    before = path.read_bytes()
    weights = read_state_dict(path)
    weights["a"].zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["ram.pth", "ram.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello, I am no checkpoint", b"PK\x03\x04 half a zip"])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_state_dict(tmp_path / name)


def test_file_with_more_than_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "ram.pth")
    with pytest.raises(ValueError, match="not a flat dictionary of tensors"):
        read_state_dict(tmp_path / "ram.pth")
