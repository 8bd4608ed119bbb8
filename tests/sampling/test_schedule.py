"""Sampling that starts part-way, from the image under less noise."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from diffusers_sr.sampling.loop import sample
from diffusers_sr.sampling.schedule import start_later, timesteps_to_take
from tests.components import scheduler as stable_diffusion
from tests.components import tiny_image
from tests.pipeline.tiny import build, difference, run

pytestmark = pytest.mark.filterwarnings("ignore:__array")


def started(kind, strength, steps=5, **options):
    scheduler = kind.from_config(stable_diffusion().config, timestep_spacing="leading", **options)
    scheduler.set_timesteps(steps)
    start_later(scheduler, steps, strength)
    return scheduler


# With an offset of 1 and leading spacing, five steps are at 801, 601, 401, 201 and 1.
@pytest.mark.parametrize(
    ("strength", "timesteps"),
    [(1, [801, 601, 401, 201, 1]), (0.6, [401, 201, 1]), (0.39, [1]), (0.01, [1])],
)
def test_the_share_of_the_steps_is_taken(strength, timesteps):
    for kind in (DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler):
        assert timesteps_to_take(started(kind, strength)).tolist() == timesteps


def test_schedulers_that_evaluate_twice():
    heun = timesteps_to_take(started(HeunDiscreteScheduler, 0.6)).tolist()
    assert heun == [401, 201, 201, 1, 1]
    pndm = timesteps_to_take(started(PNDMScheduler, 0.6, skip_prk_steps=True)).tolist()
    assert pndm == [401, 201, 201, 1]
    with pytest.raises(ValueError, match=r"strength=0.6 .* load it with `skip_prk_steps=True`"):
        started(PNDMScheduler, 0.6)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DDIMScheduler, {}),
        (PNDMScheduler, {"skip_prk_steps": True}),
        (EulerDiscreteScheduler, {}),
        (HeunDiscreteScheduler, {}),
        (DPMSolverMultistepScheduler, {}),
        (UniPCMultistepScheduler, {}),
    ],
)
def test_what_lies_under_the_noise_is_found_from_any_start(kind, options):
    """Told the noise that was added, every scheduler comes back to the image, which no wrong level of noise gives."""
    image, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for strength in (1, 0.6):
        scheduler = started(kind, strength, steps=20, **options)
        latents = scheduler.add_noise(image, noise, timesteps_to_take(scheduler)[:1])
        result = sample(lambda *_: noise, latents, scheduler)
        last = started(kind, 0.01, steps=20, **options)
        remaining = last.add_noise(image, noise, timesteps_to_take(last)[:1])
        assert difference(result, image) <= difference(remaining, image) + 1e-3


def test_a_call_starts_from_the_image_at_the_noise_of_its_first_step():
    pipeline = build("seesr")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    seen = []
    handle = pipeline.unet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0].clone(), int(args[1]))), with_kwargs=True
    )
    whole = run(pipeline, num_inference_steps=5, guidance_scale=1)
    assert [timestep for _, timestep in seen] == [801, 601, 401, 201, 1]
    seen.clear()
    part = run(pipeline, num_inference_steps=5, guidance_scale=1, strength=0.6)
    handle.remove()
    assert [timestep for _, timestep in seen] == [401, 201, 1]
    assert pipeline.num_timesteps == 3
    assert difference(part, whole) > 1e-3

    call = pipeline.check_inputs(
        tiny_image(), generator=torch.Generator().manual_seed(0), num_inference_steps=5, strength=0.6, process_size=16
    )
    photo = pipeline.prepare_image(call)
    start = pipeline.prepare_start(call, photo)
    alpha = pipeline.scheduler.alphas_cumprod[401]
    expected = alpha.sqrt() * start.image_latents + (1 - alpha).sqrt() * start.noise
    assert difference(seen[0][0], expected) < 1e-5


def test_an_earlier_start_keeps_more_of_the_image():
    pipeline = build("seesr")
    arguments = {"num_inference_steps": 10, "guidance_scale": 1, "output_type": "latent"}
    call = pipeline.check_inputs(tiny_image(), process_size=16)
    image = pipeline.prepare_start(call, pipeline.prepare_image(call)).image_latents
    distances = [
        (run(pipeline, strength=strength, **arguments) - image).abs().mean() for strength in (1, 0.7, 0.4, 0.1)
    ]
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize("strength", [0, -1, 1.5, "half"])
def test_what_is_not_a_strength(strength):
    with pytest.raises(ValueError, match=r"strength=.*, expected a number above 0, up to 1"):
        run(build("seesr"), strength=strength)


def test_noise_alone_has_no_strength():
    with pytest.raises(ValueError, match=r"strength=0.5 starts from the image .* give start_point='lr'"):
        run(build("seesr"), strength=0.5, start_point="noise")
