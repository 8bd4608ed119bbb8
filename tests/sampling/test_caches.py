"""Hooks of diffusers that keep what a model computed for the next step."""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks import (
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    apply_pyramid_attention_broadcast,
    apply_taylorseer_cache,
)

from diffusers_sr.image.tiling import tile_windows
from diffusers_sr.sampling.caches import stateful_hooks
from diffusers_sr.sampling.denoiser import StockDenoiser
from diffusers_sr.sampling.guidance import Guidance
from diffusers_sr.sampling.prediction import GuidedPrediction
from tests.components import TEXT_DIM, tiny_unet
from tests.pipeline.tiny import build, difference, run

LATENTS = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
TEXT = torch.randn(1, 7, TEXT_DIM, generator=torch.Generator().manual_seed(1))


def broadcasting(unet, callback=lambda: 500):
    """Put pyramid attention broadcast on a UNet, which computes the attention in every other step."""
    config = PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2, current_timestep_callback=callback)
    apply_pyramid_attention_broadcast(unet, config)
    return unet


def prediction(unet, negative=None, tile=8):
    result = GuidedPrediction(StockDenoiser(unet), Guidance(TEXT, negative, 2.0), tile_windows(8, 8, tile, 0), 1, 8)
    result.show(None, 1)
    return result


def steps(unet):
    """The predictions of two steps of one run, whose latents differ."""
    predict = prediction(unet)
    with torch.no_grad():
        return [predict(latents, torch.tensor(500)) for latents in (LATENTS, 0.9 * LATENTS)]


def test_what_is_kept_is_used_in_the_next_step_and_not_in_the_next_run():
    unet = tiny_unet().eval()
    plain = steps(unet)
    assert not stateful_hooks(unet)
    broadcasting(unet)
    assert len(stateful_hooks(unet)) == 4
    first = steps(unet)
    assert torch.equal(first[0], plain[0])
    assert difference(first[1], plain[1]) > 1e-3
    assert all(torch.equal(*pair) for pair in zip(steps(unet), first, strict=True))


def test_hooks_that_ask_for_a_context_get_one():
    unet = tiny_unet().eval()
    config = TaylorSeerCacheConfig(
        cache_interval=2, disable_cache_before_step=1, cache_identifiers=[r"mid_block\..*\.transformer_blocks\.0"]
    )
    apply_taylorseer_cache(unet, config)
    assert len(stateful_hooks(unet)) == 1
    first = steps(unet)
    assert all(torch.equal(*pair) for pair in zip(steps(unet), first, strict=True))


@pytest.mark.parametrize("group", [1, 2])
def test_tiles_are_refused(group):
    windows = tile_windows(8, 8, 4, 0)
    with pytest.raises(
        ValueError,
        match=r"^UNet2DConditionModel has hooks that keep values from one step for the next "
        rf"\(PyramidAttentionBroadcastHook\), but the image has {4 // group} tiles: take the hooks off, or give",
    ):
        GuidedPrediction(StockDenoiser(broadcasting(tiny_unet())), Guidance(TEXT, None, 1.0), windows, group, 8)


def test_a_second_call_in_a_step_is_refused():
    predict = prediction(broadcasting(tiny_unet().eval()), negative=-TEXT)
    with pytest.raises(ValueError, match=r"\(PyramidAttentionBroadcastHook\), but is called more than once in a step"):
        predict(LATENTS, torch.tensor(500))


def test_a_pipeline_says_its_timestep_to_the_hooks():
    pipeline = build("seesr")
    timesteps: list[torch.Tensor] = []

    def current() -> float:
        timesteps.append(pipeline.current_timestep)
        return float(pipeline.current_timestep)

    broadcasting(pipeline.unet, current)
    assert pipeline.current_timestep is None
    first = run(pipeline)
    assert {float(timestep) for timestep in timesteps} == {501.0, 1.0}
    assert pipeline.current_timestep is None
    assert torch.equal(run(pipeline), first)
