"""Two processes, started once: they have to do together what one does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from diffusers_sr.training.engine import trainable_parameters
from tests import programs
from tests.training import distributed_run
from tests.training.interruptions import assert_same, state
from tests.training.runs import Fit, fit
from tests.training.stages import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    distributed_run.prepare(folder)
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = programs.run(distributed_run.__file__, folder, environment=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> list[dict[str, Any]]:
    """Read what each of the two saw."""
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def weights(folder: Path) -> list[dict[str, Tensor]]:
    """Read what each of the two ended with."""
    return [load_file(folder / f"rank-{rank}.safetensors") for rank in (0, 1)]


def test_there_are_two(seen: list[dict[str, Any]]) -> None:
    assert [each["num_processes"] for each in seen] == [2, 2]
    assert all(mine != others for mine, others in zip(seen[0]["batches"], seen[1]["batches"], strict=True))


@pytest.mark.parametrize("kind", distributed_run.MODULES)
def test_the_gradient_of_everything_that_trains_is_reduced(weights: list[dict[str, Tensor]], kind: str) -> None:
    """Both see other samples: weights whose gradients were not averaged would differ."""
    trained = {name for name in weights[0] if name.startswith(f"{kind}.")}
    assert trained and weights[0].keys() == weights[1].keys()
    for name in trained:
        assert torch.equal(weights[0][name], weights[1][name]), name


@pytest.mark.parametrize("kind", distributed_run.MODULES)
def test_two_processes_equal_one_with_twice_the_batch(
    tmp_path: Path, weights: list[dict[str, Tensor]], kind: str
) -> None:
    """But for rounding: the mean of two gradients is not summed up in the order of the batch of both."""
    start = trainable_parameters(build("coser" if kind == "coser" else "seesr").module)
    alone = distributed_run.train_stage(tmp_path, kind, batch_size=2)
    assert start.keys() <= alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(weights[0][f"{kind}.{name}"], value, rtol=1e-4, atol=1e-6, msg=name)
    for name, value in start.items():
        assert not torch.equal(alone[name], value), name


def test_schedule_average_and_accumulation_do_not_count_processes(
    tmp_path: Path, weights: list[dict[str, Tensor]]
) -> None:
    alone = fit(tmp_path, Fit(dropout=0), train_batch_size=4, **distributed_run.FIT).state_dict()
    for name, value in alone.items():
        torch.testing.assert_close(weights[0][f"fit.{name}"], value)


def test_each_enlarges_one_of_the_two_validation_images(folder: Path, seen: list[dict[str, Any]]) -> None:
    assert [each["enlarged"] for each in seen] == [[40], [40]]
    assert Image.open(folder / "fit/validation/step-8.png").size == (40 + 8 + 40, 40 + 8 + 40)


def test_sigterm_to_one_ends_both_and_they_resume_exactly(folder: Path, seen: list[dict[str, Any]]) -> None:
    assert [each["exit"] for each in seen] == [143, 143]
    assert (folder / "parts/checkpoint-5").is_dir()
    for each in seen:
        assert each["batches"] == each["batches_in_parts"]
    whole, parts = (state(folder / run / "checkpoint-8") for run in ("whole", "parts"))
    assert {"random_states_0.pkl", "random_states_1.pkl"} <= whole.keys()
    assert_same(whole, parts)
    # Each has its own dropout.
    states = [whole[f"random_states_{rank}.pkl"]["torch_manual_seed"] for rank in (0, 1)]
    assert not torch.equal(*states)


def test_a_checkpoint_that_one_cannot_write_is_none(folder: Path) -> None:
    names = sorted(path.name for path in (folder / "full").glob("*checkpoint-*"))
    assert names == ["checkpoint-2", "checkpoint-6", "checkpoint-8"]


def test_a_step_that_one_leaves_out_is_left_out_by_both(weights: list[dict[str, Tensor]]) -> None:
    for name in ("left_out.layer.weight", "left_out.layer.bias"):
        assert torch.equal(weights[0][name], weights[1][name])


def test_references_are_made_by_exactly_one(folder: Path, seen: list[dict[str, Any]]) -> None:
    assert sorted(seen[0]["made"] + seen[1]["made"]) == list(range(5))
    assert seen[0]["made"] and seen[1]["made"]
    assert len(list((folder / "made").glob("*.png"))) == 5


def test_photos_are_described_by_exactly_one(folder: Path) -> None:
    assert [path.name for path in (folder / "described").iterdir()] == ["table.csv"]
    expected = [f"{name},process {number % 2}" for number, name in enumerate("abcde")]
    assert (folder / "described" / "table.csv").read_text().splitlines() == ["file,tags", *expected]
