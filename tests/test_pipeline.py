"""What all methods share. Every test runs on the tiny components of every method."""

import copy

import numpy as np
import pytest
import torch
from diffusers import (
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
from PIL import Image

from diffusers_sr.hub import METHODS, pipeline_class
from tests.components import components, default_tile_size, inputs, tiny_image, tiny_unet

# The schedulers of diffusers give tensors to numpy functions.
pytestmark = pytest.mark.filterwarnings("ignore:__array")

PIPELINES = {method: pipeline_class(method) for method in METHODS}


@pytest.fixture(params=PIPELINES)
def method(request):
    return request.param


@pytest.fixture
def pipeline(method):
    return build(method)


def build(method, **overrides):
    pipeline = PIPELINES[method](**{**components(method), **overrides})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline, method="seesr", seed=0, **overrides):
    """The images of a call as `[results, H, W, 3]`, or the latents, in float32."""
    generator = torch.Generator().manual_seed(seed)
    arguments = {**inputs(method), "output_type": "np", "generator": generator, **overrides}
    return torch.as_tensor(pipeline(**arguments).images)


def difference(first, second):
    return (first - second).abs().max().item()


# What the other tests rest on: every part of a call makes a difference.


@pytest.mark.parametrize(
    "change",
    [
        {"image": tiny_image(seed=1)},
        {"prompt": "an old painting"},
        {"negative_prompt": "sharp"},
        {"guidance_scale": 1.0},
        {"controlnet_conditioning_scale": 0.0},
        {"num_inference_steps": 3},
        {"start_point": "noise"},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_input_changes_the_latents(pipeline, method, change):
    latents = run(pipeline, method, output_type="latent")
    assert torch.equal(latents, run(pipeline, method, output_type="latent"))
    assert difference(latents, run(pipeline, method, output_type="latent", **change)) > 1e-3


def test_every_component_changes_the_result(pipeline, method):
    result = run(pipeline, method)
    for name in ("vae", "text_encoder", "unet", "controlnet", "adapter"):
        with torch.no_grad():
            weights = copy.deepcopy(getattr(pipeline, name).state_dict())
            for parameter in getattr(pipeline, name).parameters():
                parameter.mul_(1.1)
            assert difference(run(pipeline, method), result) > 1e-4, name
            getattr(pipeline, name).load_state_dict(weights)
    assert torch.equal(run(pipeline, method), result)


# Sizes


@pytest.mark.parametrize("size", [(96, 64), (33, 57), (9, 20), (1, 3)])
@pytest.mark.parametrize("upscale", [4, 2.5, 1])
def test_the_result_has_exactly_the_size_asked_for(pipeline, method, size, upscale):
    image = run(
        pipeline, method, image=tiny_image(*size), upscale=upscale, process_size=8, tile_size=128, tile_overlap=32
    )
    assert image.shape == (1, round(size[1] * upscale), round(size[0] * upscale), 3)
    assert image.isfinite().all()


def test_small_images_are_processed_larger_and_given_back_small(pipeline, method):
    large = run(pipeline, method, process_size=64, upscale=2, output_type="latent")
    assert large.shape[-2:] == (8, 8)
    assert run(pipeline, method, process_size=64, upscale=2).shape == (1, 32, 32, 3)


def test_grey_and_transparent_images(pipeline, method):
    grey = tiny_image().convert("L")
    as_rgb = Image.merge("RGB", [grey] * 3)
    assert torch.equal(run(pipeline, method, image=grey), run(pipeline, method, image=as_rgb))
    transparent, on_white = tiny_image().convert("RGBA"), tiny_image()
    assert torch.equal(run(pipeline, method, image=transparent), run(pipeline, method))
    hole = (4, 2, 12, 9)
    transparent.paste((200, 0, 90, 0), hole)
    on_white.paste("white", hole)
    assert torch.equal(run(pipeline, method, image=transparent), run(pipeline, method, image=on_white))
    assert difference(run(pipeline, method, image=on_white), run(pipeline, method)) > 1e-3


def test_output_types(pipeline, method):
    image = run(pipeline, method)
    assert image.dtype == torch.float32
    assert torch.equal(run(pipeline, method, output_type="pt").movedim(1, -1), image)
    pil = pipeline(**{**inputs(method), "output_type": "pil"}).images[0]
    assert np.abs(np.asarray(pil) / 255 - run(pipeline, method).numpy()[0]).max() <= 0.5 / 255 + 1e-6
    (images,) = pipeline(**{**inputs(method), "output_type": "pil"}, return_dict=False)
    assert images[0].tobytes() == pil.tobytes()
    assert run(pipeline, method, output_type="latent").shape == (1, 4, 8, 8)


# Batches


def test_a_result_does_not_depend_on_its_batch(pipeline, method):
    images = [tiny_image(20, 16, seed=seed) for seed in range(3)]
    prompts = ["a house", "a tree at night", "words " * 20]

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in (7, 8, 9)]

    together = run(pipeline, method, image=images, prompt=prompts, generator=generators())
    for index in range(3):
        alone = run(pipeline, method, image=images[index], prompt=prompts[index], generator=generators()[index])
        assert difference(together[index], alone[0]) < 1e-5
    assert difference(together[0], together[1]) > 1e-2


def test_several_results_of_an_image(pipeline, method):
    images = [tiny_image(seed=0), tiny_image(seed=1)]
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    results = run(pipeline, method, image=images, generator=generators, num_images_per_prompt=2)
    assert results.shape == (4, 64, 64, 3)
    assert difference(results[0], results[1]) > 1e-3
    for index in range(4):
        alone = run(pipeline, method, seed=index, image=images[index // 2])
        assert difference(results[index], alone[0]) < 1e-5


def test_one_prompt_serves_all_images(pipeline, method):
    images = [tiny_image(), tiny_image()]
    embeds = pipeline.encode_prompt("a", "b")
    one = run(pipeline, method, image=images, prompt=None, prompt_embeds=embeds[0])
    each = run(pipeline, method, image=images, prompt=None, prompt_embeds=embeds[0].repeat(2, 1, 1))
    assert torch.equal(one, each)
    with pytest.raises(ValueError, match=r"3 (of `prompt`|prompts) for 2 images"):
        run(pipeline, method, image=images, prompt=None, prompt_embeds=embeds[0].repeat(3, 1, 1))


# Tiles


def test_tiles_that_hold_the_image_change_nothing(pipeline, method):
    image = tiny_image(24, 16)
    whole = run(pipeline, method, image=image, tile_size=768)
    assert torch.equal(run(pipeline, method, image=image, tile_size=96, tile_overlap=16), whole)
    assert difference(run(pipeline, method, image=image, tile_size=64, tile_overlap=16), whole) > 1e-4


@pytest.mark.parametrize("tile_batch_size", [2, 4, 100])
def test_tiles_in_a_batch_are_tiles_one_by_one(pipeline, method, tile_batch_size):
    images = [tiny_image(24, 30, seed=seed) for seed in (0, 1)]
    tiles = {"image": images, "tile_size": 48, "tile_overlap": 16}
    single = run(pipeline, method, **tiles)
    assert difference(run(pipeline, method, **tiles, tile_batch_size=tile_batch_size), single) < 1e-5
    assert difference(single[0], single[1]) > 1e-2


def test_a_tile_is_what_its_part_of_the_image_is_alone():
    """In one step, where no other tile lies over it, a tile is what denoising that part alone gives."""
    pipeline = build("seesr")
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    embeds, negative_embeds = pipeline.encode_prompt("a", "b")
    _, conditioning = pipeline.describe(image)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)  # draws no noise
    pipeline.scheduler.set_timesteps(1)

    def denoise(noise, image):
        with torch.no_grad():
            return pipeline.denoise(
                noise,
                image,
                embeds,
                negative_embeds,
                conditioning=conditioning,
                guidance_scale=3.0,
                tile_size=64,
                tile_overlap=16,
            )

    tiled = denoise(noise, image)
    left = denoise(noise[..., :8], image[..., :64])
    assert difference(tiled[..., :4], left[..., :4]) < 1e-5
    assert difference(tiled[..., 7], left[..., 7]) > 1e-5


# What is computed how often


def test_what_does_not_change_is_computed_once():
    pipeline, method, counts = build("seesr"), "seesr", {}

    def count(name):
        def hook(module, args, kwargs, output):
            first = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
            counts.setdefault(name, []).append(len(first))

        return hook

    modules = {
        "text_encoder": pipeline.text_encoder,
        "encoder": pipeline.vae.encoder,
        "decoder": pipeline.vae.decoder,
        "condition": pipeline.controlnet.controlnet_cond_embedding.conv_in,
        "controlnet": pipeline.controlnet.conv_in,
        "unet": pipeline.unet.conv_in,
    }
    for name, module in modules.items():
        module.register_forward_hook(count(name), with_kwargs=True)

    # The batch of each call: two images, each of which is encoded once though it has two results; for the denoiser
    # these four, in both halves of guidance.
    images = [tiny_image(seed=0), tiny_image(seed=1)]
    run(pipeline, method, image=images, num_inference_steps=3, num_images_per_prompt=2)
    assert len(counts.pop("text_encoder")) == 1
    assert counts == {
        "encoder": [2],
        "decoder": [4],
        "condition": [2],
        "controlnet": [8] * 3,
        "unet": [8] * 3,
    }

    # Two tiles.
    counts.clear()
    run(pipeline, method, image=tiny_image(16, 24), num_inference_steps=3, tile_size=64, tile_overlap=32)
    assert len(counts.pop("text_encoder")) == 1
    assert counts == {
        "encoder": [1] * 2,
        "decoder": [1] * 2,
        "condition": [1] * 2,
        "controlnet": [2] * 6,
        "unet": [2] * 6,
    }

    counts.clear()
    run(pipeline, method, guidance_scale=1.0, start_point="noise")
    assert counts.pop("text_encoder") == [1]
    assert counts == {"decoder": [1], "condition": [1], "controlnet": [1] * 2, "unet": [1] * 2}


# Schedulers and the start


@pytest.mark.parametrize(
    "scheduler",
    [
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
    ],
)
@pytest.mark.parametrize("start_point", ["lr", "noise"])
def test_every_scheduler_can_be_swapped_in(pipeline, method, scheduler, start_point):
    ddpm = run(pipeline, method, num_inference_steps=4, start_point=start_point)
    if scheduler is LMSDiscreteScheduler:
        pytest.importorskip("scipy")
    options = {"skip_prk_steps": True} if scheduler is PNDMScheduler else {}
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **options)
    image = run(pipeline, method, num_inference_steps=4, start_point=start_point)
    assert image.isfinite().all()
    assert difference(image, ddpm) > 1e-4
    assert torch.equal(run(pipeline, method, num_inference_steps=4, start_point=start_point), image)


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_the_start_has_the_noise_of_the_first_step(pipeline, method, scheduler):
    """Where a scheduler counts in sigmas, the start lies where its own sampling starts."""
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    pipeline.scheduler.set_timesteps(4)
    noise = torch.randn(1, 4, 64, 64)
    started = pipeline.prepare_latents(noise, torch.zeros_like(noise))
    torch.testing.assert_close(started.std(), pipeline.prepare_latents(noise).std(), atol=0, rtol=0.02)


def test_the_start_from_the_image(pipeline):
    noise, image_latents = torch.randn(2, 1, 4, 8, 8)
    pipeline.scheduler.set_timesteps(2)
    assert torch.equal(pipeline.prepare_latents(noise), noise)
    signals = pipeline.scheduler.alphas_cumprod
    level = pipeline.config.call_defaults.get("added_noise_level")
    signal = signals[999] if level is None else signals[501] * signals[level]
    expected = signal**0.5 * image_latents + (1 - signal) ** 0.5 * noise
    torch.testing.assert_close(pipeline.prepare_latents(noise, image_latents), expected)


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


# Components


def test_a_call_leaves_the_components_as_they_were(pipeline, method):
    def state():
        return {
            name: (
                dict(component.config) if hasattr(component, "config") and name != "text_encoder" else None,
                {key: value.clone() for key, value in component.state_dict().items()},
                component.training,
                [type(module) for module in component.modules()],
            )
            for name, component in pipeline.components.items()
            if isinstance(component, torch.nn.Module)
        }

    def processors():
        return [
            *pipeline.unet.attn_processors.items(),
            *pipeline.controlnet.attn_processors.items(),
            *pipeline.vae.attn_processors.items(),
        ]

    before, before_processors = state(), processors()
    run(pipeline, method)
    assert processors() == before_processors
    after = state()
    for name, (config, weights, *rest) in before.items():
        assert after[name][0] == config
        assert after[name][2:] == tuple(rest)
        assert weights.keys() == after[name][1].keys()
        assert all(torch.equal(weights[key], after[name][1][key]) for key in weights)


def test_after_a_call_the_unet_is_the_stock_unet(pipeline, method):
    call = (torch.randn(1, 4, 8, 8), 500, torch.randn(1, 77, 32))
    with torch.no_grad():
        before = pipeline.unet(*call).sample
        run(pipeline, method)
        assert pipeline.adapter.is_attached(pipeline.unet)
        assert torch.equal(pipeline.unet(*call).sample, before)

        def fail(pipeline, step, timestep, tensors):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(pipeline, method, callback_on_step_end=fail)
        assert torch.equal(pipeline.unet(*call).sample, before)


def test_another_unet_assigned_later(pipeline, method):
    first = run(pipeline, method)
    torch.manual_seed(5)
    other = tiny_unet().eval()
    old, pipeline.unet = pipeline.unet, other
    second = run(pipeline, method)
    assert difference(first, second) > 1e-3
    assert torch.equal(run(build(method, unet=copy.deepcopy(other)), method), second)
    pipeline.unet = old
    assert torch.equal(run(pipeline, method), first)


def test_two_pipelines_share_one_unet(pipeline, method):
    other = build(method, unet=pipeline.unet, vae=pipeline.vae)
    with torch.no_grad():
        for parameter in other.adapter.parameters():
            parameter.mul_(1.3)
    expected = run(pipeline, method), run(build(method, adapter=copy.deepcopy(other.adapter)), method)
    assert difference(*expected) > 1e-4
    for _ in range(2):
        assert torch.equal(run(pipeline, method), expected[0])
        assert difference(run(other, method), expected[1]) < 1e-5  # whose UNet is another, of equal weights


def test_save_and_load(pipeline, method, tmp_path):
    result = run(pipeline, method)
    pipeline.save_pretrained(tmp_path)
    loaded = PIPELINES[method].from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert difference(run(loaded, method), result) < 1e-5  # weights of a file lie elsewhere in memory


def test_defaults_are_saved_and_can_be_replaced_or_changed(method, tmp_path):
    own = {"num_inference_steps": 3, "process_size": 16, "guidance_scale": 1.0, "negative_prompt": "blur"}
    saved = build(method, call_defaults=own)
    official = build(method).config.call_defaults
    saved.save_pretrained(tmp_path)
    load = PIPELINES[method].from_pretrained

    loaded = load(tmp_path)
    assert loaded.config.call_defaults == {**official, **own}
    loaded.set_progress_bar_config(disable=True)
    assert loaded(tiny_image(), output_type="np").images.shape == (1, 64, 64, 3)
    assert (loaded.num_timesteps, loaded.guidance_scale) == (3, 1.0)

    # All of them are replaced: what is not named is the method's own again.
    assert load(tmp_path, call_defaults={"guidance_scale": 2.0}).config.call_defaults == {
        **official,
        "guidance_scale": 2.0,
    }
    loaded.register_to_config(call_defaults={**loaded.config.call_defaults, "guidance_scale": 2.0})
    loaded.save_pretrained(tmp_path / "changed")
    assert load(tmp_path / "changed").config.call_defaults == {**official, **own, "guidance_scale": 2.0}


def test_components_added_to_a_stock_pipeline(pipeline, method, tmp_path):
    """A Stable Diffusion folder, and what the method adds to it, as with any ControlNet."""
    from diffusers import StableDiffusionPipeline

    result = run(pipeline, method)
    stock = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    parts = {name: part for name, part in pipeline.components.items() if name not in stock}
    StableDiffusionPipeline(
        **{name: pipeline.components[name] for name in stock},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path)
    loaded = PIPELINES[method].from_pretrained(tmp_path, **parts)
    loaded.set_progress_bar_config(disable=True)
    assert difference(run(loaded, method), result) < 1e-5  # weights of a file lie elsewhere in memory


def test_without_text_encoder(pipeline, method):
    embeds = pipeline.encode_prompt("a photo", "blur")
    bare = build(method, text_encoder=None, tokenizer=None)
    given = {"prompt": None, "negative_prompt": None}
    expected = run(pipeline, method, **given, prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1])
    image = run(bare, method, **given, prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1])
    assert torch.equal(image, expected)
    for missing in ({}, {"prompt_embeds": embeds[0]}):
        with pytest.raises(ValueError, match=r"no text encoder.*negative_prompt_embeds"):
            run(bare, method, **given, **missing)


def test_text_that_is_not_read_is_said(pipeline, caplog):
    from diffusers.utils import logging

    logging.enable_propagation()
    pipeline.encode_prompt("x" * 100)
    logging.disable_propagation()
    assert "reads 77 tokens" in caplog.text


# Defaults and what is not allowed


def test_defaults_of_the_pipeline(method):
    pipeline = build(method, call_defaults={"num_inference_steps": 3, "process_size": 16, "guidance_scale": 2.0})
    generator = torch.Generator().manual_seed(0)
    image = pipeline(tiny_image(), generator=generator, output_type="np").images
    assert pipeline.num_timesteps == 3
    assert pipeline.guidance_scale == 2.0
    assert image.shape == (1, 64, 64, 3)
    assert pipeline.config.call_defaults["tile_size"] == default_tile_size(method)
    with pytest.raises(ValueError, match=r"\['steps'\], but can have .*'num_inference_steps'"):
        build(method, call_defaults={"steps": 3})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upscale": 0}, "upscale=0, expected"),
        ({"upscale": -2.0}, "upscale=-2.0"),
        ({"upscale": float("nan")}, "upscale=nan"),
        ({"upscale": 0.01}, "makes nothing of an image of 16×16"),
        ({"num_inference_steps": 0}, "num_inference_steps=0, expected a whole number from 1"),
        ({"num_inference_steps": 2.5}, "num_inference_steps=2.5"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt=0"),
        ({"tile_batch_size": 0}, "tile_batch_size=0"),
        ({"upscale": "2"}, "upscale='2', expected"),
        ({"num_inference_steps": "2"}, "num_inference_steps='2', expected a whole number from 1"),
        ({"guidance_scale": "high"}, "guidance_scale='high', expected a number"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan, expected a number"),
        ({"controlnet_conditioning_scale": [1.0]}, r"controlnet_conditioning_scale=\[1.0\], expected a number"),
        ({"tile_size": "64"}, "tile_size='64', expected a multiple of 8"),
        ({"tile_overlap": 8.0}, "tile_overlap=8.0, expected a multiple of 8"),
        ({"process_size": "16"}, "process_size='16', expected a number of pixels from 0"),
        ({"process_size": float("inf")}, "process_size=inf, expected a number of pixels from 0"),
        ({"tile_size": 60}, "tile_size=60, expected a multiple of 8"),
        ({"tile_size": 0, "tile_overlap": 0}, "tile_overlap=0, expected less than tile_size=0"),
        ({"tile_size": 64, "tile_overlap": 64}, "tile_overlap=64, expected less than tile_size=64"),
        ({"tile_overlap": 4}, "tile_overlap=4, expected a multiple of 8"),
        ({"tile_overlap": -8}, "tile_overlap=-8"),
        ({"process_size": -1}, "process_size=-1"),
        ({"color_fix": "lab"}, "color_fix='lab', expected one of 'adain', 'wavelet', None"),
        ({"start_point": "image"}, "start_point='image', expected one of 'lr', 'noise'"),
        ({"output_type": "jpg"}, "output_type='jpg'"),
        ({"prompt": []}, r"prompt=\[\], expected a text"),
        ({"prompt": 5}, "prompt=5"),
        ({"prompt_embeds": torch.zeros(1, 77, 32)}, "Both `prompt` and `prompt_embeds`"),
        ({"negative_prompt_embeds": torch.zeros(1, 77, 32)}, "Both `negative_prompt`"),
        (
            {"negative_prompt": None, "negative_prompt_embeds": torch.zeros(1, 7, 32)},
            r"\[1, 77, 32\].*\[1, 7, 32\].*differ",
        ),
        ({"negative_prompt": ["a", "b"]}, "2 of `negative_prompt` for 1 images"),
        ({"latents": torch.zeros(1, 4, 8, 9)}, r"\[1, 4, 8, 9\], expected \[1, 4, 8, 8\]"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 results"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, r"has \['noise'\], but a callback can get"),
        ({"image": []}, "empty list"),
        ({"image": [tiny_image(8, 8), tiny_image(8, 9)]}, "8×8, 8×9"),
    ],
)
def test_what_is_not_allowed_is_said(pipeline, method, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(pipeline, method, **arguments)


def test_numbers_of_numpy_are_numbers(pipeline, method):
    image = tiny_image(24, 16)
    whole = {"num_inference_steps": 2, "tile_size": 64, "tile_overlap": 16, "tile_batch_size": 2, "process_size": 16}
    whole["num_images_per_prompt"] = 2
    real = {"upscale": 4.0, "guidance_scale": 3.0, "controlnet_conditioning_scale": 0.5}
    expected = run(pipeline, method, image=image, **whole, **real)
    whole = {name: np.int64(value) for name, value in whole.items()}
    real = {name: np.float32(value) for name, value in real.items()}
    assert difference(run(pipeline, method, image=image, **whole, **real), expected) < 1e-5


def test_arguments_can_be_checked_without_a_call(method):
    pipeline = build(method, call_defaults={"tile_overlap": 32})
    pipeline.check_inputs(tile_size=64, num_inference_steps=None)
    with pytest.raises(ValueError, match="tile_overlap=32, expected less than tile_size=32"):
        pipeline.check_inputs(tile_size=32)


def test_an_unknown_argument(pipeline, method):
    with pytest.raises(TypeError, match="strength"):
        run(pipeline, method, strength=0.5)


# Colours


def test_colour_fixes(pipeline, method):
    plain = run(pipeline, method, color_fix=None)
    results = {name: run(pipeline, method, color_fix=name) for name in ("adain", "wavelet")}
    enlarged = np.asarray(tiny_image().resize((64, 64), Image.Resampling.BICUBIC)) / 255
    colour = torch.from_numpy(enlarged).mean((0, 1))
    for result in results.values():
        assert difference(result.mean((0, 1, 2)), colour) < 0.05
        assert difference(result, plain) > 1e-2
    assert difference(plain.mean((0, 1, 2)), colour) > 0.05
    assert difference(*results.values()) > 1e-2
    default = {**results, None: plain}[pipeline.config.call_defaults["color_fix"]]
    assert torch.equal(run(pipeline, method), default)
    for color_fix, expected in (("wavelet", results["wavelet"]), (None, plain)):
        assert torch.equal(run(build(method, call_defaults={"color_fix": color_fix}), method), expected)


# Precision


def test_bfloat16(pipeline, method):
    pipeline.to(torch.bfloat16)
    image = run(pipeline, method)
    assert image.dtype == torch.float32
    assert image.isfinite().all()
    assert (
        run(pipeline, method, image=tiny_image(24, 16), tile_size=64, tile_overlap=32, output_type="latent")
        .isfinite()
        .all()
    )
