"""A result depends on neither its batch nor the tiles it is made of, and nothing is computed twice."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
)

from diffusers_sr.sampling.guidance import Guidance
from diffusers_sr.seesr.denoiser import SeeSRControl
from tests.components import tiny_image
from tests.pipeline.tiny import build, difference, run

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
    with pytest.raises(ValueError, match="3 of `prompt_embeds` for 2 images"):
        run(pipeline, method, image=images, prompt=None, prompt_embeds=embeds[0].repeat(3, 1, 1))


# Tiles


def test_tiles_that_hold_the_image_change_nothing(pipeline, method):
    image = tiny_image(24, 16)
    whole = run(pipeline, method, image=image, tile_size=768)
    assert torch.equal(run(pipeline, method, image=image, tile_size=96, tile_overlap=16), whole)
    assert difference(run(pipeline, method, image=image, tile_size=64, tile_overlap=16), whole) > 1e-4


def test_tiles_of_the_vae_change_nothing(pipeline, method):
    images = [tiny_image(24, 16), tiny_image(24, 16, seed=1)]
    whole = run(pipeline, method, image=images, num_images_per_prompt=2)
    assert difference(run(pipeline, method, image=images, num_images_per_prompt=2, vae_tile_size=32), whole) < 1e-4


def test_tiles_in_a_batch_are_tiles_one_by_one(pipeline, method):
    images = [tiny_image(18, 28, seed=seed) for seed in (0, 1)]
    tiles = {"image": images, "tile_size": 48, "tile_overlap": 16}  # two by three for each image
    single = run(pipeline, method, **tiles)
    for tile_batch_size in (2, 4, 100):
        together = run(pipeline, method, **tiles, tile_batch_size=tile_batch_size)
        assert difference(together, single) < 1e-5, tile_batch_size
    assert difference(single[0], single[1]) > 1e-2


def test_a_tile_is_what_its_part_of_the_image_is_alone():
    """In one step, where no other tile lies over it, a tile is what denoising that part alone gives."""
    pipeline = build("seesr")
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)  # draws no noise
    call = pipeline.check_inputs(tile_size=64, tile_overlap=16)
    prompt_embeds, negative_prompt_embeds = pipeline.encode_prompt("a", "b")
    guidance = Guidance(prompt_embeds, negative_prompt_embeds, 3.0)
    _, seen = pipeline.describe(image, call)

    @torch.no_grad()
    def denoise(noise, image):
        denoiser = pipeline.denoiser(call)
        control = SeeSRControl(image, pipeline.adapter.prepare(**seen))
        return pipeline.denoise(call, denoiser, control, guidance, noise, pipeline.prepare_scheduler(1))

    tiled = denoise(noise, image)
    left = denoise(noise[..., :8], image[..., :64])
    assert difference(tiled[..., :4], left[..., :4]) < 1e-5
    assert difference(tiled[..., 7], left[..., 7]) > 1e-5


# What is computed how often


def test_what_does_not_change_is_computed_once():
    pipeline, method = build("seesr"), "seesr"
    counts: dict[str, list[int]] = {}

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

    # Two tiles of the denoiser; the VAE takes the whole image.
    counts.clear()
    run(pipeline, method, image=tiny_image(16, 24), num_inference_steps=3, tile_size=64, tile_overlap=32)
    assert len(counts.pop("text_encoder")) == 1
    assert counts == {
        "encoder": [1],
        "decoder": [1],
        "condition": [1] * 2,
        "controlnet": [2] * 6,
        "unet": [2] * 6,
    }

    counts.clear()
    run(pipeline, method, guidance_scale=1.0, start_point="noise")
    assert counts.pop("text_encoder") == [1]
    assert counts == {"decoder": [1], "condition": [1], "controlnet": [1] * 2, "unet": [1] * 2}
