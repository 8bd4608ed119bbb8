"""The guidance of `XPSRPipeline` and the latents it starts from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, EulerDiscreteScheduler

from diffusers_sr.sampling.guidance import Guidance
from diffusers_sr.sampling.photo import Start
from diffusers_sr.xpsr.denoiser import XPSRControl, XPSRDenoiser
from diffusers_sr.xpsr.pipeline import XPSRPipeline
from tests.components import TEXT_DIM
from tests.xpsr.pipelines import AS_TEXTS, build, difference, run

# Guidance


def predictions(guide_low_level: bool, scale: float = 3.0) -> tuple[torch.Tensor, ...]:
    """The noise with guidance, and that of its two halves with the low-level prompts each should have."""
    pipeline = build()
    latents, timestep, image = torch.randn(2, 4, 8, 8), torch.tensor(500), torch.rand(2, 3, 64, 64)
    (negative, positive), (low_negative, low_positive) = torch.randn(2, 2, 2, 7, TEXT_DIM)
    pipeline.adapter.attach(pipeline.unet).attach(pipeline.controlnet)
    with torch.no_grad():
        prepared = [pipeline.adapter("prepare_low_level", text) for text in (low_negative, low_positive)]
        given = prepared if guide_low_level else prepared[1:]

        def predict(texts: list[torch.Tensor], low_level: list[Any]) -> torch.Tensor:
            denoiser = XPSRDenoiser(pipeline.unet, pipeline.controlnet, pipeline.adapter, 0.9)
            guidance = Guidance(texts[-1], texts[0] if len(texts) == 2 else None, scale)
            return guidance.combine(denoiser.predict(latents, timestep, guidance.texts, XPSRControl(image, low_level)))

        guided = predict([negative, positive], given)
        # Halves alone, as after a callback that switches the guidance off, have the last of the low-level prompts.
        halves = predict([negative], [prepared[0] if guide_low_level else prepared[1]]), predict([positive], given)
        other = predict([negative], [prepared[1] if guide_low_level else prepared[0]])
    return guided, *halves, other


@pytest.mark.parametrize("guide_low_level", [True, False])
def test_guidance_of_both_prompts_or_of_the_high_level_prompt_alone(guide_low_level: bool) -> None:
    torch.manual_seed(0)
    guided, negative, positive, other = predictions(guide_low_level)
    assert difference(guided, negative + 3.0 * (positive - negative)) < 1e-4
    assert difference(guided, other + 3.0 * (positive - other)) > 1e-2


def test_a_negative_prompt_that_is_the_prompt_is_no_guidance() -> None:
    pipeline = build()
    same: dict[str, Any] = {"prompt": "", "high_level_prompt": "", "quality_prompt": "x", "negative_prompt": "x"}
    same |= AS_TEXTS | {"low_level_prompt": "y"}
    expected = run(pipeline, **same, guidance_scale=1.0)
    assert difference(run(pipeline, **same, guide_low_level=False), expected) < 1e-4
    assert difference(run(pipeline, **same, negative_low_level_prompt="y"), expected) < 1e-4
    assert difference(run(pipeline, **same), expected) > 1e-3


def test_guidance_can_be_switched_off_in_the_middle() -> None:
    pipeline, sizes = build(), []
    pipeline.controlnet.conv_in.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))

    def cut_off(pipeline: XPSRPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        pipeline._guidance_scale = 1.0
        return {}

    changed = run(pipeline, callback_on_step_end=cut_off)
    assert sizes == [2, 1]
    assert changed.isfinite().all()
    assert difference(changed, run(pipeline)) > 1e-4


# The start


def first_latents(
    pipeline: XPSRPipeline, noise: torch.Tensor, image_latents: torch.Tensor, level: int | None = None
) -> torch.Tensor:
    """Make what sampling starts from, at the first of the timesteps that are set."""
    call = pipeline.check_inputs(added_noise_level=level)
    return pipeline.prepare_latents(call, Start(noise, image_latents), pipeline.scheduler)


def test_the_start_is_that_of_the_official_code_in_distribution() -> None:
    """Noise at the first timestep, and on that noise at the second: the same mean, and the same variance."""
    pipeline = build()
    scheduler = pipeline.scheduler
    for steps, level in ((20, 800), (4, 400), (4, 0)):
        scheduler.set_timesteps(steps)
        first = scheduler.timesteps[:1]
        assert int(first) == {20: 951, 4: 751}[steps]
        image, none = torch.randn(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)

        def twice(image: torch.Tensor, noise: torch.Tensor, more_noise: torch.Tensor) -> torch.Tensor:
            once = scheduler.add_noise(image, noise, first)  # noqa: B023
            return scheduler.add_noise(once, more_noise, torch.tensor([level]))  # noqa: B023

        mean = first_latents(pipeline, none, image, level)
        torch.testing.assert_close(mean, twice(image, none, none))
        ones = torch.ones_like(none)
        deviation = first_latents(pipeline, ones, none, level)
        both = twice(none, ones, none).square() + twice(none, none, ones).square()
        torch.testing.assert_close(deviation.square(), both)
        if level == 800:
            assert torch.equal(deviation, first_latents(pipeline, ones, none))


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_a_scheduler_that_counts_in_sigmas_starts_where_the_others_do(spacing: str) -> None:
    """The UNet is given the same at the first step."""
    pipeline = build()
    noise, image = torch.randn(2, 1, 4, 8, 8)
    inputs_of_unet = []
    for kind in (DDIMScheduler, EulerDiscreteScheduler):
        scheduler = pipeline.scheduler = kind.from_config(pipeline.scheduler.config, timestep_spacing=spacing)
        scheduler.set_timesteps(4)
        start = first_latents(pipeline, noise, image)
        inputs_of_unet.append(scheduler.scale_model_input(start, scheduler.timesteps[0]))
    assert difference(*inputs_of_unet) < 2e-2
    assert inputs_of_unet[0].std() > 0.8


def test_a_scheduler_without_the_training_timesteps_starts_at_its_first_step() -> None:
    pipeline = build()
    scheduler = pipeline.scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(4)
    noise, image = torch.randn(2, 1, 4, 8, 8)
    expected = image + scheduler.sigmas[0] * noise
    torch.testing.assert_close(first_latents(pipeline, noise, image), expected)
