"""AddSR's sampler."""

from __future__ import annotations

import pytest
import torch

from diffusers_sr.sampling.loop import sample
from diffusers_sr.seesr.four_steps import FourStepScheduler


def test_timesteps():
    scheduler = FourStepScheduler()
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == [999, 749]


@pytest.mark.parametrize("steps", [0, 5, 50])
def test_other_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"num_inference_steps={steps}.*1 to 4"):
        FourStepScheduler().set_timesteps(steps)


def test_a_step_by_hand():
    # ᾱ of 999 is 0.00466010, that of 749 is 0.05662345; the last step adds no noise.
    scheduler = FourStepScheduler()
    latents, noise = torch.tensor([[[[2.0]]]]), torch.tensor([[[[0.5]]]])
    result = scheduler.step(noise, 999, latents, noise=torch.tensor([[[[3.0]]]]))
    original = (2 - 0.9953399**0.5 * 0.5) / 0.0046601**0.5
    assert result.pred_original_sample.item() == pytest.approx(original, rel=1e-5)
    following = 0.05662345**0.5 * original + 0.94337655**0.5 * 3
    assert result.prev_sample.item() == pytest.approx(following, rel=1e-5)
    last = scheduler.step(noise, 249, latents)
    assert last.prev_sample.item() == pytest.approx((2 - 0.3245679**0.5 * 0.5) / 0.6754321**0.5, rel=1e-5)


def test_noise_comes_from_the_generator():
    def run(seed: int) -> torch.Tensor:
        return sample(
            lambda latents, timestep: 0.9 * latents,
            torch.ones(1, 4, 2, 2),
            FourStepScheduler(),
            generator=torch.Generator().manual_seed(seed),
        )

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_it_reads_the_schedule_of_a_base_and_saves_it(tmp_path):
    scheduler = FourStepScheduler(num_train_timesteps=400, beta_end=0.02)
    assert scheduler.timesteps.tolist() == [399, 299, 199, 99]
    scheduler.save_pretrained(tmp_path)
    loaded = FourStepScheduler.from_pretrained(tmp_path)
    assert torch.equal(loaded.alphas_cumprod, scheduler.alphas_cumprod)
