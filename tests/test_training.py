import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from diffusers_sr.losses import denoising_loss, draw_noise, draw_timesteps, drop_texts
from diffusers_sr.training import (
    TrainingArguments,
    option,
    parse_arguments,
    photo_crops,
    train,
)


class Points(Dataset):
    """Points of the line y = 2x, with the seed each sample draws from."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x = torch.randn(3, generator=torch.Generator().manual_seed(index))
        return {"x": x, "y": 2 * x, "seed": torch.tensor(index)}


class Fit(nn.Module):
    """One layer that trains behind one that is frozen; dropout draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.layer = nn.Linear(3, 3)
        self.dropout = nn.Dropout(0.1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        target = batch["y"] + 0.01 * draw_noise(batch["seed"], (3,), batch["x"].device)
        return {"mse": (self.layer(self.dropout(self.frozen(batch["x"]))).float() - target).square().mean()}


def fit(output_dir: Path, **options: object) -> Fit:
    arguments = TrainingArguments(
        train_data_dir="unused",
        output_dir=str(output_dir),
        **{"max_train_steps": 8, "train_batch_size": 4, "learning_rate": 0.05, "checkpointing_steps": 4, **options},
    )
    module = Fit()
    torch.manual_seed(1)
    train(
        module,
        Points(),
        arguments,
        lambda folder: torch.save(module.layer.state_dict(), folder / "layer.pt"),
    )
    return module


def test_trains_what_requires_grad_and_nothing_else(tmp_path: Path) -> None:
    module, start = fit(tmp_path), Fit()
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, start.get_parameter(name)) == name.startswith("frozen."), name


@pytest.mark.parametrize("mixed_precision", [None, "bf16"])
def test_loss_falls(tmp_path: Path, capsys: pytest.CaptureFixture[str], mixed_precision: str | None) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    fit(tmp_path, max_train_steps=300, log_every=150, mixed_precision=mixed_precision)
    AcceleratorState._reset_state(reset_partial_state=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    first, last = (float(line.split()[3]) for line in lines)
    assert last < first / 2


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, ema_decay: float) -> None:
    options = {"lr_scheduler": "cosine", "ema_decay": ema_decay}
    whole = fit(tmp_path / "whole", **options)
    shutil.rmtree(tmp_path / "whole" / "checkpoint-8")
    resumed = fit(tmp_path / "whole", resume_from_checkpoint="latest", **options)
    assert not torch.equal(whole.layer.weight, Fit().layer.weight)
    assert torch.equal(whole.layer.weight, resumed.layer.weight)
    assert torch.equal(whole.layer.bias, resumed.layer.bias)


def test_number_of_workers_does_not_change_the_run(tmp_path: Path) -> None:
    a, b = (fit(tmp_path / str(workers), dataloader_num_workers=workers) for workers in (0, 2))
    assert torch.equal(a.layer.weight, b.layer.weight)


def test_accumulation_equals_the_larger_batch(tmp_path: Path) -> None:
    large = fit(tmp_path / "large")
    accumulated = fit(tmp_path / "small", train_batch_size=2, gradient_accumulation_steps=2)
    torch.testing.assert_close(large.layer.weight, accumulated.layer.weight)


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    fit(tmp_path, checkpointing_steps=2, checkpoints_total_limit=2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]
    assert json.loads((tmp_path / "training_arguments.json").read_text())["checkpointing_steps"] == 2


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="The loss of step"):
        fit(tmp_path, learning_rate=1e30, max_grad_norm=1e30)


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no checkpoint"):
        fit(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-99"))


def test_checkpoints_of_another_run_are_not_overwritten(tmp_path: Path) -> None:
    fit(tmp_path)
    with pytest.raises(ValueError, match=r"already holds \['checkpoint-4', 'checkpoint-8'\]"):
        fit(tmp_path)
    with pytest.raises(ValueError, match=r"already holds \['checkpoint-8'\]"):
        fit(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_save_that_failed_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as context, pytest.raises(OSError, match="No space left"):
        context.setattr(torch, "save", fail)
        fit(tmp_path, checkpointing_steps=100)
    assert not list(tmp_path.glob("checkpoint-*")) and not (tmp_path / "layer.pt").exists()
    fit(tmp_path)
    weights = torch.load(tmp_path / "layer.pt", weights_only=True)
    (tmp_path / "layer.pt").unlink()
    fit(tmp_path, resume_from_checkpoint="latest")
    assert torch.equal(torch.load(tmp_path / "layer.pt", weights_only=True)["weight"], weights["weight"])


def test_two_processes(tmp_path: Path) -> None:
    """Two processes see both halves of each batch, and checkpoints hold the random state of both."""
    script = tmp_path / "run.py"
    script.write_text(
        "from pathlib import Path\nfrom tests.test_training import fit\n"
        f"fit(Path({str(tmp_path / 'two')!r}), train_batch_size=2)\n"
    )
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "2 process(es)" in printed
    for step in (4, 8):
        names = {path.name for path in (tmp_path / "two" / f"checkpoint-{step}").iterdir()}
        assert {"random_states_0.pkl", "random_states_1.pkl"} <= names
    assert not (tmp_path / "two" / "unfinished-checkpoint").exists()


def test_draws_follow_the_sample() -> None:
    seeds = torch.tensor([3, 4])
    device = torch.device("cpu")
    both = draw_noise(seeds, (2, 2), device)
    assert torch.equal(both[1:], draw_noise(seeds[1:], (2, 2), device))
    assert not torch.equal(both[0], both[1])
    many = torch.arange(4000)
    timesteps = draw_timesteps(many, 1000, device)
    assert timesteps.min() >= 0 and timesteps.max() <= 999
    assert abs(timesteps.float().mean() - 499.5) < 20
    kept = drop_texts(many, ["text"] * 4000, 0.25)
    assert set(kept) == {"", "text"}
    assert abs(kept.count("") / 4000 - 0.25) < 0.03


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_denoising_loss_of_the_right_answer_is_zero(prediction_type: str) -> None:
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    latents, noise = torch.randn(2, 2, 4, 4, 4)
    timesteps = torch.tensor([10, 900])
    answer = noise if prediction_type == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    assert denoising_loss(scheduler, answer, latents, noise, timesteps) == 0
    assert denoising_loss(scheduler, answer + 1, latents, noise, timesteps) == pytest.approx(1)
    with pytest.raises(ValueError, match="'sample'"):
        denoising_loss(DDPMScheduler(prediction_type="sample"), answer, latents, noise, timesteps)


@dataclass(kw_only=True)
class ExampleArguments(TrainingArguments):
    """An example."""

    width: int = option(3, "Width.")


def test_recipe_gives_defaults_that_options_override(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train_data_dir: photos\nwidth: 5\nseed: 7\n")
    arguments = parse_arguments(ExampleArguments, ["--config", str(recipe), "--output_dir", "runs", "--seed", "8"])
    assert (arguments.train_data_dir, arguments.width, arguments.seed) == ("photos", 5, 8)
    recipe.write_text("widht: 5\n")
    with pytest.raises(ValueError, match="widht"):
        parse_arguments(ExampleArguments, ["--config", str(recipe)])


def test_excluded_photos_are_left_out_and_have_to_exist(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    listed = tmp_path / "held_out.txt"
    arguments = TrainingArguments(
        train_data_dir=str(tmp_path), output_dir="unused", resolution=8, exclude_data=str(listed)
    )
    listed.write_text("b.png\n")
    crops = photo_crops(arguments)
    assert [path.name for path in crops.paths] == ["a.png"]
    listed.write_text("c.png\n")
    with pytest.raises(ValueError, match=r"c\.png"):
        photo_crops(arguments)
