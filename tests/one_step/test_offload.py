"""Offloading, with the CPU as the device that weights are brought to: every call gives what it gives without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import accelerate
import numpy as np
import pytest
import torch
from torch import nn

from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.one_step.scheduler import OneStepScheduler
from tests.components import tiny_unet
from tests.one_step.components import lora_set, pisa, with_text_encoder
from tests.one_step.test_pipeline import difference, run
from tests.seesr.components import tiny_tagger

CPU = torch.device("cpu")


def osediff() -> OneStepPipeline:
    """A model with tagger and text encoder, and without a stored prompt."""
    scheduler = OneStepScheduler(timestep=999, prediction="x0")
    return with_text_encoder(stored_prompt=None, tagger=tiny_tagger().eval(), scheduler=scheduler)


def merged() -> OneStepPipeline:
    return pisa(lora=None)


MODELS = [pisa, osediff, merged]


def models(pipeline: OneStepPipeline) -> dict[str, nn.Module]:
    """The components that a pipeline offloads."""
    return {
        name: model
        for name, model in pipeline.components.items()
        if isinstance(model, nn.Module) and name not in pipeline._exclude_from_cpu_offload
    }


def sequentially(pipeline: OneStepPipeline) -> None:
    """Do what `enable_sequential_cpu_offload` does; it does not take the CPU itself."""
    for model in models(pipeline).values():
        accelerate.cpu_offload(model, CPU, offload_buffers=bool(model._parameters))


def as_a_whole(pipeline: OneStepPipeline) -> None:
    """Do what `enable_model_cpu_offload` does."""
    hook = None
    for name in pipeline.model_cpu_offload_seq.split("->"):
        if (model := models(pipeline).get(name)) is not None:
            _, hook = accelerate.cpu_offload_with_hook(model, CPU, prev_module_hook=hook)


def in_blocks(pipeline: OneStepPipeline) -> None:
    pipeline.enable_group_offload(CPU, CPU, offload_type="block_level", num_blocks_per_group=1)


def in_leaves(pipeline: OneStepPipeline) -> None:
    pipeline.enable_group_offload(CPU, CPU, offload_type="leaf_level")


WAYS = [sequentially, as_a_whole, in_blocks, in_leaves]


@pytest.mark.parametrize("offload", WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_offloaded_is_not_offloaded(
    model: Callable[[], OneStepPipeline], offload: Callable[[OneStepPipeline], None]
) -> None:
    expected = run(model())
    pipeline = model()
    offload(pipeline)
    for _ in range(2):
        assert difference(run(pipeline), expected) == 0


@pytest.mark.parametrize("offload", WAYS)
def test_dials_of_an_offloaded_model(offload: Callable[[OneStepPipeline], None]) -> None:
    expected = run(pisa(), semantic_scale=0.5)
    pipeline = pisa()
    offload(pipeline)
    assert difference(run(pipeline, semantic_scale=0.5), expected) == 0


@pytest.mark.parametrize("offload", [in_blocks, in_leaves])
def test_loras_of_an_offloaded_model(offload: Callable[[OneStepPipeline], None], tmp_path: Path) -> None:
    own = {f"unet.{key}": tensor for key, tensor in lora_set(tiny_unet(), 3).items()}

    def with_style(pipeline: OneStepPipeline) -> np.ndarray:
        pipeline.load_lora_weights(own, adapter_name="style")
        return run(pipeline)

    plain, styled = run(pisa()), with_style(pisa())
    pipeline = pisa()
    offload(pipeline)
    assert difference(with_style(pipeline), styled) < 1e-5
    pipeline.fuse_lora()
    assert difference(run(pipeline), styled) < 1e-5
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    assert difference(run(pipeline), plain) < 1e-5
    pipeline.save_pretrained(tmp_path)
    loaded = OneStepPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert difference(run(loaded), plain) < 1e-5
    assert difference(run(pipeline), plain) < 1e-5


def test_what_is_run_first_is_offloaded_first() -> None:
    assert OneStepPipeline.model_cpu_offload_seq == "tagger->text_encoder->unet->vae"
