"""LoRAs of the user's own besides the sets that the model consists of."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch._dynamo.testing import CompileCounterWithBackend

from diffusers_sr.one_step.lora import LoraSets
from diffusers_sr.one_step.pipeline import OneStepPipeline
from tests.components import tiny_unet
from tests.one_step.components import lora_set, pisa
from tests.one_step.test_pipeline import difference, run

CLOSE, APART = 1e-5, 1e-3


@pytest.fixture
def pipeline() -> OneStepPipeline:
    return pisa()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A LoRA of rank 3 and alpha 3 that stock diffusers has saved."""
    torch.manual_seed(3)
    layers = {key: tensor for key, tensor in lora_set(tiny_unet(), 3).items() if not key.startswith("conv_in.")}
    path: Path = LoraSets.from_state_dicts({"style": (layers, 3)}).save_lora(tmp_path / "style")[0]
    return path


def with_style(file: Path, scale: float = 1.0, **changes: Any) -> OneStepPipeline:
    """The pipeline as it is expected with the style: its weights are the base's from the beginning."""
    from safetensors.torch import load_file

    pipeline = pisa(**changes)
    lora = pipeline.lora
    if lora is not None:
        lora.detach(pipeline.unet)
    weights = {key.removeprefix("unet."): tensor for key, tensor in load_file(file).items()}
    with torch.no_grad():
        for key, down in weights.items():
            if ".lora_A." in key:
                up = weights[key.replace("lora_A", "lora_B")]
                layer: Any = pipeline.unet.get_submodule(key.partition(".lora_A")[0])
                layer.weight += scale * (up.flatten(1) @ down.flatten(1)).reshape(layer.weight.shape)
    if lora is not None:
        lora.attach(pipeline.unet)
    return pipeline


@pytest.mark.parametrize("changes", [{}, {"lora": None}], ids=["sets", "merged"])
def test_a_loaded_lora_is_added_to_the_model(file: Path, changes: dict[str, Any]) -> None:
    pipeline = pisa(**changes)
    plain = run(pipeline)
    pipeline.load_lora_weights(file, adapter_name="style")
    styled = run(pipeline)
    assert difference(styled, plain) > APART
    assert difference(styled, run(with_style(file, **changes))) < CLOSE
    pipeline.set_adapters("style", 0.5)
    assert difference(run(pipeline), run(with_style(file, 0.5, **changes))) < CLOSE
    pipeline.set_adapters(["style"])
    half = run(pipeline, cross_attention_kwargs={"scale": 0.5})
    assert difference(half, run(with_style(file, 0.5, **changes))) < CLOSE
    assert difference(run(pipeline, cross_attention_kwargs={"scale": 0.0}), plain) < CLOSE
    assert difference(run(pipeline), styled) < CLOSE
    pipeline.disable_lora()
    assert difference(run(pipeline), plain) < CLOSE
    pipeline.enable_lora()
    assert difference(run(pipeline), styled) < CLOSE
    pipeline.delete_adapters("style")
    assert difference(run(pipeline), plain) < CLOSE


def test_the_dials_are_of_the_models_sets_alone(pipeline: OneStepPipeline, file: Path) -> None:
    pipeline.load_lora_weights(file, adapter_name="style")
    expected = run(with_style(file), pixel_scale=0.5)
    assert difference(run(pipeline, pixel_scale=0.5), expected) < CLOSE
    pipeline.disable_lora()
    assert difference(run(pipeline, pixel_scale=0.5), run(pisa(), pixel_scale=0.5)) < CLOSE
    assert all(layer.disable_adapters for layer in layers(pipeline.unet)), "as it was asked for"


def layers(unet: UNet2DConditionModel) -> list[BaseTunerLayer]:
    return [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]


def test_weights_by_block_are_those_of_the_users_lora(pipeline: OneStepPipeline, file: Path) -> None:
    """In diffusers there is no name for the block of `conv_in`, where the model has a LoRA and the user does not."""
    plain = run(pipeline)
    pipeline.load_lora_weights(file, adapter_name="style")
    pipeline.delete_adapters("style")
    attention = {f"unet.{key}": tensor for key, tensor in lora_set(tiny_unet(), 3).items() if ".attentions." in key}
    pipeline.load_lora_weights(attention, adapter_name="style")
    pipeline.set_adapters("style", {"unet": {"down": 0.0, "up": 0.0, "mid": 0.0}})
    assert difference(run(pipeline), plain) < CLOSE
    pipeline.set_adapters("style", {"unet": {"down": 1.0, "up": 0.0, "mid": 0.0}})
    assert difference(run(pipeline), plain) > APART


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("names", [None, ["style"]])
def test_fusing_a_loaded_lora(pipeline: OneStepPipeline, file: Path, names: list[str] | None, scale: float) -> None:
    plain = run(pipeline)
    pipeline.load_lora_weights(file, adapter_name="style")
    styled, expected = run(pipeline), run(with_style(file, scale))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.fuse_lora(adapter_names=names, lora_scale=scale)
    assert difference(run(pipeline), expected) < CLOSE
    assert pipeline.fused_loras == ({"style"} if names else {"pixel", "semantic", "style"})
    pipeline.unfuse_lora()
    assert difference(run(pipeline), expected) < CLOSE  # the scale is kept, as in diffusers' own pipelines
    assert pipeline.num_fused_loras == 0
    pipeline.set_adapters("style")
    assert difference(run(pipeline), styled) < CLOSE
    pipeline.unload_lora_weights()
    assert difference(run(pipeline), plain) < CLOSE


def test_loading_a_lora_into_the_fused_model(pipeline: OneStepPipeline, file: Path) -> None:
    pipeline.fuse_lora()
    pipeline.load_lora_weights(file, adapter_name="style")
    assert difference(run(pipeline), run(with_style(file))) < CLOSE


def test_fused_and_unloaded_sets_are_the_model(pipeline: OneStepPipeline, file: Path, tmp_path: Path) -> None:
    """The way of diffusers to a pipeline without LoRA layers: fuse, unload, save."""
    pipeline.load_lora_weights(file, adapter_name="style")
    styled = run(pipeline)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    assert pipeline.lora is None and not layers(pipeline.unet)
    assert difference(run(pipeline), styled) < CLOSE
    with pytest.raises(ValueError, match=r"but the model has \[\]"):
        run(pipeline, pixel_scale=0.5)
    pipeline.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "lora").exists()
    loaded = load(tmp_path / "saved")
    assert difference(run(loaded), styled) < CLOSE


def load(folder: Path) -> OneStepPipeline:
    pipeline = OneStepPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_deleted_set_comes_back(pipeline: OneStepPipeline) -> None:
    plain = run(pipeline)
    pipeline.delete_adapters("pixel")
    assert difference(run(pipeline), plain) < CLOSE


def test_another_unet_assigned_later(pipeline: OneStepPipeline) -> None:
    torch.manual_seed(5)
    other = tiny_unet().eval()
    expected = run(pisa(unet=copy.deepcopy(other), lora=copy.deepcopy(pipeline.lora)))
    plain = run(pipeline)
    pipeline.unet = other
    assert difference(run(pipeline), plain) > APART
    assert difference(run(pipeline), expected) < CLOSE


@pytest.mark.parametrize("state", ["plain", "loaded", "fused", "fused projections"])
def test_a_copy_is_a_pipeline_of_its_own(pipeline: OneStepPipeline, file: Path, state: str) -> None:
    if state == "loaded":
        pipeline.load_lora_weights(file, adapter_name="style")
    elif state == "fused":
        pipeline.fuse_lora()
    elif state == "fused projections":
        pipeline.fuse_qkv_projections()
    expected = run(pipeline)
    copied = copy.deepcopy(pipeline)
    assert difference(run(copied), expected) == 0
    if state == "fused projections":
        copied.unfuse_qkv_projections()
    copied.unfuse_lora()
    copied.unload_lora_weights()
    with torch.no_grad():
        for parameter in copied.unet.parameters():
            parameter.zero_()
    assert difference(run(copied), expected) > APART
    assert difference(run(pipeline), expected) == 0


def test_fused_projections_have_the_sets(pipeline: OneStepPipeline) -> None:
    plain, dialled = run(pipeline), run(pipeline, pixel_scale=0.5)
    pipeline.fuse_qkv_projections()
    assert difference(run(pipeline), plain) < CLOSE
    with pytest.raises(ValueError, match=r"they are fused: call unfuse_lora\(\)"):
        run(pipeline, pixel_scale=0.5)
    pipeline.unfuse_lora()
    assert difference(run(pipeline), plain) < CLOSE
    assert difference(run(pipeline, pixel_scale=0.5), dialled) < CLOSE


def test_a_compiled_unet_has_the_sets(pipeline: OneStepPipeline, tmp_path: Path) -> None:
    plain, dialled = run(pipeline), run(pipeline, pixel_scale=0.5)
    counter = CompileCounterWithBackend("eager")
    pipeline.unet = torch.compile(pipeline.unet, backend=counter)
    for _ in range(3):
        assert difference(run(pipeline), plain) < CLOSE
    compiled = counter.frame_count
    for _ in range(3):
        assert difference(run(pipeline), plain) < CLOSE
    assert counter.frame_count == compiled
    assert difference(run(pipeline, pixel_scale=0.5), dialled) < CLOSE
    pipeline.save_pretrained(tmp_path)
    assert difference(run(load(tmp_path)), plain) < CLOSE


def test_what_cannot_be_saved_is_said(pipeline: OneStepPipeline, file: Path, tmp_path: Path) -> None:
    plain = run(pipeline)
    pipeline.load_lora_weights(file, adapter_name="style")
    styled = run(pipeline)
    with pytest.raises(ValueError, match=r"LoRAs \['style'\] besides the model's own.*unload_lora_weights\(\)"):
        pipeline.save_pretrained(tmp_path)
    assert difference(run(pipeline), styled) < CLOSE
    pipeline.unload_lora_weights()
    pipeline.fuse_lora()
    with pytest.raises(ValueError, match=r"are fused into the UNet's weights: call `unfuse_lora\(\)` first"):
        pipeline.save_pretrained(tmp_path)
    pipeline.unfuse_lora()
    pipeline.save_pretrained(tmp_path)
    assert difference(run(load(tmp_path)), plain) < CLOSE


def test_sets_are_exchanged_and_left_out(pipeline: OneStepPipeline, tmp_path: Path) -> None:
    plain, stock = run(pipeline), run(pisa(lora=None))
    other = copy.deepcopy(pipeline.lora)
    assert other is not None
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    expected = run(pisa(lora=copy.deepcopy(other)))
    before, pipeline.lora = pipeline.lora, other
    assert difference(run(pipeline), expected) < CLOSE
    pipeline.lora = None
    assert not layers(pipeline.unet)
    assert difference(run(pipeline), stock) < CLOSE
    pipeline.save_pretrained(tmp_path)
    assert difference(run(load(tmp_path)), stock) < CLOSE
    pipeline.lora = before
    assert difference(run(pipeline), plain) < CLOSE


def test_from_pipe_shares_the_sets_and_the_users_lora(pipeline: OneStepPipeline, file: Path) -> None:
    pipeline.load_lora_weights(file, adapter_name="style")
    styled = run(pipeline)
    other = OneStepPipeline.from_pipe(pipeline)
    other.set_progress_bar_config(disable=True)
    assert other.unet is pipeline.unet and other.lora is pipeline.lora
    assert difference(run(other), styled) == 0
    assert difference(run(pipeline), styled) == 0
