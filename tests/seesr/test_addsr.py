"""A SeeSR pipeline with the four-step scheduler is AddSR."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from diffusers_sr.image.pixels import read_images
from diffusers_sr.sampling.finite import NotFiniteError
from diffusers_sr.seesr.four_steps import FourStepScheduler
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from tests.components import components, tiny_image
from tests.pipeline.test_finite import as_a_whole, in_groups, sequentially
from tests.seesr.addsr_by_hand import restore_by_hand

IMAGE = read_images(tiny_image(48, 64))
UNSCALED: dict[str, Any] = {"upscale": 1, "process_size": 0}


def build(**overrides: Any) -> SeeSRPipeline:
    pipeline = SeeSRPipeline(**{**components("seesr"), "scheduler": FourStepScheduler(), **overrides})
    pipeline.set_progress_bar_config(disable=True)
    embedding = pipeline.controlnet.controlnet_cond_embedding
    for layer in (embedding.conv_in, *embedding.blocks, embedding.conv_out):
        layer.weight.data.mul_(3)  # so that the condition matters as much as the representation
    return pipeline


@pytest.fixture
def pipeline() -> SeeSRPipeline:
    return build()


def run(pipeline: SeeSRPipeline, image: Any = IMAGE, seed: int = 0, **options: Any) -> torch.Tensor:
    """The latents, if nothing else is asked for."""
    arguments = {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "latent"}
    generator = torch.Generator().manual_seed(seed)
    result = pipeline(image, **{**arguments, "generator": generator, **options})
    return torch.as_tensor(result.images)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


class Counts:
    """The batches that models are given, by name."""

    def __init__(self, pipeline: SeeSRPipeline) -> None:
        self.batches: dict[str, list[int]] = {}
        self.pixels: list[torch.Tensor] = []
        modules = {
            "tagger": pipeline.tagger,
            "text_encoder": pipeline.text_encoder,
            "encoder": pipeline.vae.encoder,
            "decoder": pipeline.vae.decoder,
            "condition": pipeline.controlnet.controlnet_cond_embedding.conv_in,
            "unet": pipeline.unet.conv_in,
        }
        for name, module in modules.items():
            module.register_forward_pre_hook(self.counted(name), with_kwargs=True)

    def counted(self, name: str) -> Any:
        def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            first = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
            self.batches.setdefault(name, []).append(len(first))
            if name == "tagger":
                self.pixels.append(first)

        return hook


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


# What the call gives


def test_a_given_representation_stays(pipeline):
    counts = Counts(pipeline)
    representation = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
    given: dict[str, Any] = {"tags": "cat", "representation": representation, **UNSCALED}
    refined = run(pipeline, **given)
    assert "tagger" not in counts.batches
    assert counts.batches["condition"] == [1] * 4
    assert difference(refined, run(pipeline, **given, psr_weight=0)) > 1e-3
    assert torch.equal(run(build(tagger=None), **given), refined)


def test_the_representation_is_refined_too(pipeline):
    """Given that of the photo, the condition alone is refined."""
    call = pipeline.check_inputs(num_inference_steps=4)
    with torch.no_grad():
        representation = pipeline.describe(IMAGE, call)[1]["representation"]
    assert difference(run(pipeline, **UNSCALED, representation=representation), run(pipeline, **UNSCALED)) > 1e-3


@pytest.mark.parametrize("weight", [-0.1, 1.5, "much", float("nan")])
def test_weights_that_are_not_allowed(pipeline, weight):
    with pytest.raises(ValueError, match=r"psr_weight=.*expected a number from 0 to 1"):
        run(pipeline, psr_weight=weight)


@pytest.mark.parametrize("weight", [0, 0.4])
def test_only_addsr_refines(weight):
    pipeline = build(scheduler=components("seesr")["scheduler"])
    counts = Counts(pipeline)
    with pytest.raises(ValueError, match=f"psr_weight={weight} is AddSR's.*DDPMScheduler, not a FourStepScheduler"):
        run(pipeline, psr_weight=weight)
    run(pipeline, **UNSCALED)
    assert counts.batches["tagger"] == [1]


@pytest.mark.parametrize("steps", [5, None])
def test_other_numbers_of_steps_are_refused_before_any_model_runs(pipeline, steps):
    counts = Counts(pipeline)
    with pytest.raises(ValueError, match=f"num_inference_steps={steps or 50}.*choose 1 to 4"):
        run(pipeline, num_inference_steps=steps)
    assert counts.batches == {}


# Callbacks


def test_callbacks_see_and_change_every_step(pipeline):
    seen = []

    def watch(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep), sorted(tensors)))
        return tensors

    names = pipeline._callback_tensor_inputs
    watched = run(pipeline, **UNSCALED, callback_on_step_end=watch, callback_on_step_end_tensor_inputs=names)
    assert torch.equal(watched, run(pipeline, **UNSCALED))
    assert seen == [(step, timestep, sorted(names)) for step, timestep in enumerate((999, 749, 499, 249))]
    assert pipeline.num_timesteps == 4

    def clear(pipeline, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    assert not run(pipeline, **UNSCALED, callback_on_step_end=clear).any()


def test_a_stop_stops_the_refinement_too(pipeline):
    counts = Counts(pipeline)

    def stop(pipeline, step, timestep, tensors):
        pipeline._interrupt = step == 1
        return {}

    run(pipeline, **UNSCALED, callback_on_step_end=stop)
    assert counts.batches["unet"] == [1, 1]
    assert counts.batches["tagger"] == [1, 1]
    assert counts.batches["decoder"] == [1]
    assert len(run(pipeline, **UNSCALED)) == 1
    assert counts.batches["unet"] == [1] * 6


# Types, memory and failures


@pytest.mark.parametrize("offload", [sequentially, as_a_whole, in_groups])
def test_with_offloading(pipeline, offload):
    expected = run(build(), **UNSCALED)
    for name in ("unet", "controlnet", "adapter", "vae", "text_encoder", "tagger"):
        offload(getattr(pipeline, name))
    assert torch.equal(run(pipeline, **UNSCALED), expected)
    assert torch.equal(run(pipeline, **UNSCALED), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision(pipeline, dtype):
    expected = run(pipeline, **UNSCALED)
    result = run(pipeline.to(dtype), **UNSCALED)
    assert result.dtype == dtype
    assert (result - expected).abs().mean() < 0.02 * expected.std()


def test_what_is_not_finite_in_the_refinement_is_an_error(pipeline):
    counts = Counts(pipeline)
    pipeline.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="decoding is not finite"):
        run(pipeline, **UNSCALED)
    assert counts.batches["unet"] == [1]


def test_its_prompts_and_scheduler_are_saved(tmp_path):
    pipeline = build(quality_prompt="sharp")
    expected = run(pipeline, **UNSCALED)
    assert difference(expected, run(build(), **UNSCALED)) > 1e-3
    pipeline.save_pretrained(tmp_path)
    loaded = SeeSRPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded.scheduler, FourStepScheduler)
    assert loaded.write_prompt("a photo", tags="cat") == ["cat, a photo,sharp"]
    assert difference(run(loaded, **UNSCALED), expected) < 2e-4
    other = SeeSRPipeline.from_pretrained(tmp_path, quality_prompt="clean", scheduler=DDPMScheduler())
    assert other.write_prompt(None, tags="cat") == ["cat, ,clean"]


def test_the_quality_prompt_is_a_text(tmp_path):
    with pytest.raises(ValueError, match="`quality_prompt` is None, expected a text"):
        build(quality_prompt=None)
