"""Calls of a SeeSR pipeline with the four-step scheduler: what they give, callbacks, memory and failures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from diffusers_sr.sampling.finite import NotFiniteError
from diffusers_sr.seesr.four_steps import FourStepScheduler
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from tests.components import components
from tests.pipeline.test_finite import as_a_whole, in_groups, sequentially
from tests.seesr.addsr import IMAGE, UNSCALED, Counts, build, difference, run


@pytest.fixture
def pipeline() -> SeeSRPipeline:
    return build()


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
