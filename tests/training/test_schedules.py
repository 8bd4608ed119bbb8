"""The first timesteps of schedules."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from diffusers_sr.training.schedules import first_timesteps


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_the_first_timesteps_keep_their_noise(kind: Any, name: str) -> None:
    whole = kind(beta_start=0.00085, beta_end=0.012, beta_schedule=name, timestep_spacing="trailing")
    part = first_timesteps(whole, 250)
    assert isinstance(part, kind)
    torch.testing.assert_close(part.alphas_cumprod, whole.alphas_cumprod[:250], atol=1e-6, rtol=0)
    part.set_timesteps(1)
    assert part.timesteps.tolist() == [249]


def test_the_share_of_the_image_that_stable_diffusion_leaves_after_250_timesteps() -> None:
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    # The sum of the first 250 betas, (0.029155 + 0.000080470 t)², is 0.39207, and that of half their squares 0.00035.
    assert first_timesteps(scheduler, 250).alphas_cumprod[-1].item() == pytest.approx(0.6754, abs=1e-4)


def test_schedules_that_have_no_such_part() -> None:
    with pytest.raises(ValueError, match="num_train_timesteps=1001: the base's schedule has 1000"):
        first_timesteps(DDPMScheduler(), 1001)
    with pytest.raises(ValueError, match="squaredcos_cap_v2"):
        first_timesteps(DDPMScheduler(beta_schedule="squaredcos_cap_v2"), 10)
