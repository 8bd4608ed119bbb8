import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from diffusers_sr.training.arguments import TrainingArguments, option, parse_arguments
from diffusers_sr.training.losses import denoising_loss, draw_noise, draw_timesteps, drop_texts
from diffusers_sr.training.photos import photo_crops
from tests.training.runs import Fit, fit


def test_trains_what_requires_grad_and_nothing_else(tmp_path: Path) -> None:
    module, start = fit(tmp_path), Fit()
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, start.get_parameter(name)) == name.startswith("frozen."), name


@pytest.mark.parametrize("mixed_precision", [None, "bf16"])
def test_loss_falls(tmp_path: Path, capsys: pytest.CaptureFixture[str], mixed_precision: str | None) -> None:
    fit(tmp_path, max_train_steps=300, checkpointing_steps=300, log_every=150, mixed_precision=mixed_precision)
    printed = capsys.readouterr().out.splitlines()
    (estimate,) = (line for line in printed if line.startswith("estimate from 9 steps at "))
    assert " seconds to step 300, " in estimate
    assert printed[-1] == f"The result is in {tmp_path}."
    lines = [line for line in printed if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["1", "150", "300"]
    _, first, last = (float(line.split()[3]) for line in lines)
    assert last < first / 2
    assert all(float(line.split()[-2]) > 0 and line.endswith(" images/s") for line in lines)


def test_number_of_workers_does_not_change_the_run(tmp_path: Path) -> None:
    a, b = (fit(tmp_path / str(workers), dataloader_num_workers=workers) for workers in (0, 2))
    assert torch.equal(a.layer.weight, b.layer.weight)


def test_accumulation_equals_the_larger_batch(tmp_path: Path) -> None:
    large = fit(tmp_path / "large")
    accumulated = fit(tmp_path / "small", train_batch_size=2, gradient_accumulation_steps=2)
    torch.testing.assert_close(large.layer.weight, accumulated.layer.weight)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="The loss of step"):
        fit(tmp_path, learning_rate=1e30, max_grad_norm=1e30)


def test_tf32_is_allowed_on_request(tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        fit(tmp_path / "without", max_train_steps=1)
        assert torch.get_float32_matmul_precision() == before == "highest"
        fit(tmp_path / "with", max_train_steps=1, allow_tf32=True)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_8bit_adam_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"pip install 'diffusers-sr\[8bit\]'"):
        fit(tmp_path, use_8bit_adam=True)


def test_8bit_adam_trains(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available():
        pytest.skip("bitsandbytes' optimizers need a GPU")
    assert not torch.equal(fit(tmp_path, use_8bit_adam=True).layer.weight, Fit().layer.weight)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="--report_to wandb"):
        fit(tmp_path, report_to=["tensorboard", "wandb"])
    with pytest.raises(ValueError, match="paper"):
        fit(tmp_path, report_to=["paper"])


def test_losses_and_speed_go_to_the_tracker(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path, report_to=["tensorboard"], log_every=2)
    (file,) = (path for path in tmp_path.glob("logs/**/events*") if "hparams" not in path.read_text(errors="ignore"))
    events = EventAccumulator(str(file)).Reload()
    assert {"mse", "learning_rate", "images_per_second"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("mse")] == [1, 2, 4, 6, 8]


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
    depths: list[int] = field(default_factory=lambda: [2, 2])


def test_recipe_gives_defaults_that_options_override(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train_data_dir: photos\nwidth: 5\nseed: 7\n")
    arguments = parse_arguments(ExampleArguments, ["--config", str(recipe), "--output_dir", "runs", "--seed", "8"])
    assert (arguments.train_data_dir, arguments.width, arguments.seed) == ("photos", 5, 8)
    recipe.write_text("widht: 5\n")
    with pytest.raises(ValueError, match="widht"):
        parse_arguments(ExampleArguments, ["--config", str(recipe)])
    recipe.write_text("depths: 2\n")
    with pytest.raises(ValueError, match=r"depths is 2 in the recipe, but has to be a list: \[2\]"):
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
