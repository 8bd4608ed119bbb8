"""Where models are and in which type: what diffusers' own properties say."""

from __future__ import annotations

import accelerate
import pytest
import torch
from diffusers import DiffusionPipeline

from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.sampling.placement import CASTING, IN_GROUPS, has_hook, model_dtype
from tests.one_step.components import pisa
from tests.pipeline.tiny import build

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def pipeline() -> OneStepPipeline:
    return pisa()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_type_is_that_of_the_weights(pipeline: OneStepPipeline, dtype: torch.dtype) -> None:
    pipeline.to(dtype)
    assert model_dtype(pipeline.unet) == pipeline.unet.dtype == dtype
    assert pipeline.sampling_dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_the_type_of_weights_that_are_cast_is_the_one_they_are_cast_to(pipeline: OneStepPipeline) -> None:
    pipeline.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert has_hook(pipeline.unet, CASTING) and not has_hook(pipeline.unet, IN_GROUPS)
    assert model_dtype(pipeline.unet) == torch.bfloat16
    assert pipeline.sampling_dtype == torch.float32


def test_the_device_is_that_of_the_weights(pipeline: OneStepPipeline) -> None:
    assert pipeline._execution_device == CPU
    assert not any(has_hook(model, IN_GROUPS) for model in (pipeline.unet, pipeline.vae))


def test_the_device_is_the_one_that_offloaded_weights_are_brought_to(pipeline: OneStepPipeline) -> None:
    pipeline.vae.enable_group_offload(CPU, CPU, offload_type="leaf_level")
    for module in pipeline.vae.modules():
        if (
            hook := has_hook(module, IN_GROUPS)
            and not [*module.children()]
            and module._diffusers_hook.get_hook(IN_GROUPS)
        ):
            hook.config.onload_device = META  # as if there was an accelerator
    assert pipeline._execution_device == META
    sequential = pisa()
    for name in ("unet", "vae", "lora"):
        accelerate.cpu_offload(getattr(sequential, name), META)
    assert sequential._execution_device == META


def test_an_adapter_has_hooks_which_change_nothing() -> None:
    pipeline = build("seesr")
    pipeline.adapter.attach(pipeline.unet)
    assert "_diffusers_hook" in {name for module in pipeline.unet.modules() for name in vars(module)}
    assert not has_hook(pipeline.unet, IN_GROUPS) and not has_hook(pipeline.unet, CASTING)
    assert (model_dtype(pipeline.unet), pipeline._execution_device) == (torch.float32, CPU)
    assert DiffusionPipeline._execution_device.fget(pipeline) == CPU
