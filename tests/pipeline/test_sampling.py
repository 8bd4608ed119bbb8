"""Schedulers, the start of the sampling, and callbacks."""

import functools

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderTiny,
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from diffusers_sr.sampling.photo import Start
from tests.components import tiny_image
from tests.pipeline.tiny import PIPELINES, build, built, difference, run

# The schedulers of diffusers give tensors to numpy functions.
pytestmark = pytest.mark.filterwarnings("ignore:__array")


# Schedulers and the start


def first_latents(pipeline, steps, noise, image_latents=None):
    start = Start(noise, image_latents)
    return pipeline.prepare_latents(pipeline.check_inputs(), start, pipeline.prepare_scheduler(steps))


SCHEDULERS = [
    DDIMScheduler,
    PNDMScheduler,
    LMSDiscreteScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    DEISMultistepScheduler,
    UniPCMultistepScheduler,
    LCMScheduler,
]
# Each method with each scheduler and with both starts, each scheduler with both starts.
SWAPS = [
    (method, scheduler, ("lr", "noise")[(first + second) % 2])
    for first, method in enumerate(PIPELINES)
    for second, scheduler in enumerate(SCHEDULERS)
]


@functools.cache
def with_ddpm(method, start_point):
    return run(built(method), method, num_inference_steps=4, start_point=start_point)


@pytest.mark.parametrize(("method", "scheduler", "start_point"), SWAPS)
def test_every_scheduler_can_be_swapped_in(pipeline, method, scheduler, start_point):
    if scheduler is LMSDiscreteScheduler:
        pytest.importorskip("scipy")
    options = {"skip_prk_steps": True} if scheduler is PNDMScheduler else {}
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **options)
    image = run(pipeline, method, num_inference_steps=4, start_point=start_point)
    assert image.isfinite().all()
    assert difference(image, with_ddpm(method, start_point)) > 1e-4
    assert torch.equal(run(pipeline, method, num_inference_steps=4, start_point=start_point), image)


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_the_start_has_the_noise_of_the_first_step(pipeline, method, scheduler):
    """Where a scheduler counts in sigmas, the start lies where its own sampling starts."""
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    noise = torch.randn(1, 4, 64, 64)
    started = first_latents(pipeline, 4, noise, torch.zeros_like(noise))
    torch.testing.assert_close(started.std(), first_latents(pipeline, 4, noise).std(), atol=0, rtol=0.02)


def test_the_start_from_the_image(pipeline):
    noise, image_latents = torch.randn(2, 1, 4, 8, 8)
    assert torch.equal(first_latents(pipeline, 2, noise), noise)
    signals = pipeline.scheduler.alphas_cumprod
    # XPSR and PASD add the noise of a second timestep to that of the first.
    second = pipeline.config.call_defaults.get("added_noise_level")
    signal = signals[999] if second is None else signals[501] * signals[second]
    expected = signal**0.5 * image_latents + (1 - signal) ** 0.5 * noise
    torch.testing.assert_close(first_latents(pipeline, 2, noise, image_latents), expected)


def test_two_steps_without_guidance(pipeline, method):
    """As with sd-turbo: trailing timesteps, and no second half for the negative prompt."""
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    pipeline.scheduler = scheduler
    timesteps = []
    turbo = {"num_inference_steps": 2, "guidance_scale": 1.0}

    def callback(pipeline, step, timestep, tensors):
        timesteps.append(int(timestep))
        return tensors

    image = run(pipeline, method, **turbo, callback_on_step_end=callback)
    assert timesteps == [999, 499]
    assert torch.equal(run(pipeline, method, **turbo, negative_prompt="anything else"), image)
    embeds, _ = pipeline.encode_prompt("a", do_classifier_free_guidance=False)
    assert _ is None
    assert run(pipeline, method, **turbo, prompt=None, negative_prompt=None, prompt_embeds=embeds).isfinite().all()


def test_given_noise_replaces_the_generators(pipeline, method):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    start = {"start_point": "noise"}
    drawn = run(pipeline, method, seed=0, **start)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    given = run(pipeline, method, seed=1, latents=noise, **start)
    assert torch.equal(given, run(pipeline, method, seed=0, **start))
    assert difference(given, run(pipeline, method, seed=0, latents=-noise, **start)) > 1e-3
    assert difference(given, drawn) > 1e-4


def test_another_autoencoder(method):
    """An AutoencoderTiny gives latents, not a posterior; and one of another factor has other tiles."""
    pipeline = build(method)
    torch.manual_seed(0)
    for blocks, factor in (((8, 8, 8, 8), 8), ((8, 8, 8), 4)):
        pipeline.vae = AutoencoderTiny(
            encoder_block_out_channels=blocks,
            decoder_block_out_channels=blocks,
            num_encoder_blocks=(1,) * len(blocks),
            num_decoder_blocks=(1,) * len(blocks),
        )
        assert pipeline.vae_scale_factor == factor
        if factor == 8:
            assert run(pipeline, method, image=tiny_image(24, 16), tile_size=64, tile_overlap=32).shape == (
                1,
                64,
                96,
                3,
            )


def test_an_autoencoder_that_deals_channels_out_to_pixels():
    """An AutoencoderDC gives one latent of another name; of its config the pipelines read `block_out_channels`."""
    pipeline = build("seesr")
    torch.manual_seed(0)
    widths, scales = (8, 8, 16, 64), ((),) * 4
    pipeline.vae = AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(0, 1, 1, 1),
        decoder_layers_per_block=(0, 1, 1, 1),
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
    )
    pipeline.vae.register_to_config(block_out_channels=widths)
    whole = run(pipeline, "seesr", image=tiny_image(24, 16), start_point="lr")
    assert whole.shape == (1, 64, 96, 3)
    tiled = run(pipeline, "seesr", image=tiny_image(24, 16), start_point="lr", vae_tile_size=64)
    assert difference(whole, tiled) < 0.2  # its tiles are blended


# Callbacks


def test_callbacks_see_and_change_every_step(pipeline, method):
    seen = []

    def watch(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep), sorted(tensors)))
        return tensors

    names = pipeline._callback_tensor_inputs
    watched = run(pipeline, method, callback_on_step_end=watch, callback_on_step_end_tensor_inputs=names)
    assert torch.equal(watched, run(pipeline, method))
    assert seen == [(0, 501, sorted(names)), (1, 1, sorted(names))]
    assert pipeline.num_timesteps == 2

    def clear(pipeline, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    assert not run(pipeline, method, output_type="latent", callback_on_step_end=clear).any()


def test_callbacks_can_change_guidance_and_stop(pipeline, method):
    def without_guidance(pipeline, step, timestep, tensors):
        pipeline._guidance_scale = 1.0
        return {}

    changed = run(pipeline, method, callback_on_step_end=without_guidance)
    assert difference(changed, run(pipeline, method)) > 1e-4
    steps = []

    def stop(pipeline, step, timestep, tensors):
        steps.append(step)
        pipeline._interrupt = True
        return {}

    run(pipeline, method, callback_on_step_end=stop, num_inference_steps=4)
    assert steps == [0]
    run(pipeline, method)
    assert not pipeline.interrupt
