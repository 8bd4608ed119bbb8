"""A SeeSR pipeline with the four-step scheduler is AddSR: its sampler, in tiles and in batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffusers_sr.seesr.pipeline import SeeSRPipeline
from tests.components import tiny_image
from tests.seesr.addsr import IMAGE, UNSCALED, Counts, build, difference, run
from tests.seesr.addsr_by_hand import restore_by_hand


@pytest.fixture
def pipeline() -> SeeSRPipeline:
    return build()


# The sampler


@pytest.mark.parametrize("weight", [0, 0.4, 1])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_it_is_the_loop_written_by_hand(pipeline, weight, guidance_scale):
    expected = restore_by_hand(pipeline, IMAGE, torch.Generator().manual_seed(0), weight, guidance_scale)
    result = run(pipeline, psr_weight=weight, guidance_scale=guidance_scale, **UNSCALED)
    assert expected.std() > 10
    assert difference(result, expected) < 2e-4


def test_pinned_latents(pipeline):
    first = {
        weight: run(pipeline, psr_weight=weight, **UNSCALED).flatten()[:3].tolist() for weight in (0, None, 0.4, 1)
    }
    assert first[0] == pytest.approx([-9.9263, -10.8359, 2.1450], abs=2e-3)
    assert first[None] == first[0.4] == pytest.approx([-9.9364, -10.8656, 2.0599], abs=2e-3)
    assert first[1] == pytest.approx([-9.9767, -10.8717, 1.9157], abs=2e-3)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_with_fewer_steps_the_result_is_what_the_last_one_predicts(pipeline, steps):
    expected = restore_by_hand(pipeline, IMAGE, torch.Generator().manual_seed(0), steps=steps)
    assert difference(run(pipeline, num_inference_steps=steps, **UNSCALED), expected) < 2e-3


def test_every_draw_comes_from_the_generator(pipeline):
    torch.manual_seed(0)
    first = run(pipeline, **UNSCALED)
    torch.manual_seed(1)
    assert torch.equal(run(pipeline, **UNSCALED), first)
    assert difference(run(pipeline, seed=1, **UNSCALED), first) > 1e-2


def test_what_runs_how_often(pipeline):
    counts = Counts(pipeline)
    run(pipeline, image=[tiny_image(seed=0), tiny_image(seed=1)], num_images_per_prompt=2, process_size=32)
    assert counts.batches == {
        "tagger": [2, 4, 4, 4],
        "text_encoder": [2],
        "encoder": [2],
        "decoder": [4] * 3,
        "condition": [2, 4, 4, 4],
        "unet": [4] * 4,
    }
    counts.batches.clear()
    run(pipeline, psr_weight=0, guidance_scale=2.0, **UNSCALED)
    assert counts.batches == {"tagger": [1], "text_encoder": [2], "encoder": [1], "condition": [1], "unet": [2] * 4}


# Tiles, sizes and batches


def test_tiles(pipeline):
    """The condition is refined once a step for the whole image, and embedded tile by tile."""
    whole = run(pipeline, **UNSCALED)
    assert torch.equal(run(pipeline, **UNSCALED, tile_size=64, tile_overlap=32), whole)
    counts = Counts(pipeline)
    tiles = {**UNSCALED, "tile_size": 48, "tile_overlap": 32, "guidance_scale": 2.0}
    tiled = run(pipeline, **tiles)
    assert counts.batches == {
        "tagger": [1] * 4,
        "text_encoder": [2],
        "encoder": [1],
        "decoder": [1] * 3,
        "condition": [1] * 2 * 4,
        "unet": [2] * 2 * 4,
    }
    assert difference(run(pipeline, **tiles, tile_batch_size=2), tiled) < 2e-4
    assert difference(run(pipeline, **UNSCALED, guidance_scale=2.0), tiled) > 1e-3


def test_tiles_of_the_vae_change_nothing(pipeline):
    assert difference(run(pipeline, **UNSCALED, vae_tile_size=32), run(pipeline, **UNSCALED)) < 2e-3


def test_tiles_have_no_seams(pipeline):
    """Where nothing depends on the place, the result of tiles does not either."""
    photo = torch.full((1, 3, 64, 160), 0.5)
    noise = torch.randn(1, 4, 8, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, -1, 20)
    call = pipeline.check_inputs(image=photo, tile_size=64, tile_overlap=32, guidance_scale=1.0, num_inference_steps=1)
    whole = run(pipeline, photo, latents=noise, **UNSCALED, tile_size=160, num_inference_steps=1)
    tiled = run(pipeline, photo, latents=noise, **UNSCALED, tile_size=64, tile_overlap=32, num_inference_steps=1)
    assert len(pipeline.windows(call, noise)) == 4
    steps = (tiled[..., 1:] - tiled[..., :-1]).abs().amax(dim=(0, 1, 2))
    inside = (whole[..., 1:] - whole[..., :-1]).abs().amax(dim=(0, 1, 2))
    assert steps[4:-4].max() < 2 * inside.max()


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_result_does_not_depend_on_its_batch(pipeline, guidance_scale):
    images = [tiny_image(20, 16, seed=seed) for seed in (0, 1)]
    seeds = (3, 4, 5, 6)
    call = {"process_size": 32, "upscale": 2, "guidance_scale": guidance_scale, "output_type": "np"}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    together = run(pipeline, images, **call, generator=generators, num_images_per_prompt=2)
    assert together.shape == (4, 32, 40, 3)
    for index, seed in enumerate(seeds):
        alone = run(pipeline, images[index // 2], seed, **call)
        assert difference(together[index], alone[0]) < 1e-4
    assert difference(together[0], together[1]) > 1e-3


def test_the_tagger_does_not_see_the_padding(pipeline):
    counts = Counts(pipeline)
    photo = tiny_image(25, 18)
    size = run(pipeline, photo, process_size=0, upscale=2, psr_weight=1, output_type="np").shape
    assert size == (1, 36, 50, 3)
    decoded = []
    pipeline.vae.decoder.register_forward_hook(lambda module, args, output: decoded.append(output))
    counts.pixels.clear()
    run(pipeline, photo, process_size=0, upscale=2, psr_weight=1, num_inference_steps=2)
    image = (decoded[0].clamp(-1, 1) / 2 + 0.5)[..., :36, :50]
    assert decoded[0].shape[-2:] == (40, 56)
    expected = pipeline.tagger.preprocess(image, antialias=False, mode="bicubic")
    torch.testing.assert_close(counts.pixels[1], expected, atol=1e-5, rtol=0)


def test_official_preprocessing(pipeline):
    image = run(
        pipeline, tiny_image(18, 17), upscale=2, process_size=32, official_preprocessing=True, output_type="np"
    )
    assert image.shape == (1, 34, 36, 3)
    without: dict[str, Any] = {"upscale": 2, "process_size": 32, "output_type": "np"}
    assert difference(image, run(pipeline, tiny_image(18, 17), **without)) > 1e-3
