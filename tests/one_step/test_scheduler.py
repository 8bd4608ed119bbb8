"""The closed forms of one-step models."""

from __future__ import annotations

import pytest
import torch

from diffusers_sr.one_step.scheduler import OneStepScheduler


def restored(scheduler: OneStepScheduler, latents: float, prediction: float) -> float:
    scheduler.set_timesteps(1)
    (timestep,) = scheduler.timesteps
    step = scheduler.step(torch.tensor([prediction]), timestep, torch.tensor([latents]), return_dict=False)
    return step[0].item()


def test_the_residual_is_subtracted() -> None:
    assert restored(OneStepScheduler(), 3.0, 1.0) == 2.0


def test_the_clean_latents_follow_from_the_noise() -> None:
    # a = 0.00466010 at 999: (1 - sqrt(0.99533990)) / sqrt(0.00466010) = 0.00233279 / 0.0682649
    assert restored(OneStepScheduler(timestep=999, prediction="x0"), 1.0, 1.0) == pytest.approx(0.034173, rel=1e-4)
    # and without predicted noise 1 / 0.0682649
    assert restored(OneStepScheduler(timestep=999, prediction="x0"), 1.0, 0.0) == pytest.approx(14.64882, rel=1e-5)


def test_the_levels_of_noise_and_step_differ() -> None:
    """GDPO-SR adds the noise of timestep 250, where a = 0.673792, and steps from 100, where a = 0.894223."""
    scheduler = OneStepScheduler(timestep=100, noise_timestep=250, prediction="x0")
    noisy = scheduler.start(torch.tensor([1.0]), torch.tensor([2.0])).item()
    assert noisy == pytest.approx(0.820848 + 2 * 0.571146, rel=1e-5)
    assert restored(scheduler, 1.0, 0.0) == pytest.approx(1 / 0.945634, rel=1e-5)


def test_without_a_level_no_noise_is_added() -> None:
    latents = torch.randn(1, 4, 2, 2)
    assert OneStepScheduler().start(latents, torch.ones_like(latents)) is latents


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prediction": "v"}, r"prediction='v', expected one of \['residual', 'x0'\]"),
        ({"timestep": 1000}, "timestep=1000, expected one of the training, from 0 to 999"),
        ({"noise_timestep": -1}, "noise_timestep=-1, expected"),
    ],
)
def test_what_is_not_allowed(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OneStepScheduler(**arguments)
    with pytest.raises(ValueError, match="num_inference_steps=2, but a one-step model takes one"):
        OneStepScheduler().set_timesteps(2)


def test_it_is_saved_and_loaded(tmp_path) -> None:
    OneStepScheduler(timestep=100, noise_timestep=250, prediction="x0").save_pretrained(tmp_path)
    loaded = OneStepScheduler.from_pretrained(tmp_path)
    assert (loaded.config.timestep, loaded.config.noise_timestep, loaded.config.prediction) == (100, 250, "x0")
