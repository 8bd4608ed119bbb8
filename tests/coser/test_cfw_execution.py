"""CFW as a component: saved and loaded, in half precision, compiled, offloaded, sliced, and what it leaves behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.hooks import apply_group_offloading
from torch import nn

from diffusers_sr.coser.cfw import ControllableFeatureWrapping
from tests.coser.cfw_models import Models, difference


@pytest.fixture
def models() -> Models:
    return Models()


def test_save_and_load(models: Models, tmp_path: Path) -> None:
    expected = models.decode()
    models.cfw.save_pretrained(tmp_path)
    models.cfw = ControllableFeatureWrapping.from_pretrained(tmp_path)
    assert torch.equal(models.decode(), expected)


def traces(vae: AutoencoderKL) -> list[Any]:
    """Everything a hook could have left."""
    attributes = [
        (name, key, copy.copy(value) if isinstance(value, dict) else value)  # such as the dictionaries of hooks
        for name, module in vae.named_modules()
        for key, value in module.__dict__.items()
    ]
    return [repr(vae), list(vae.state_dict()), attributes]


def test_the_autoencoder_is_left_as_it_was(models: Models) -> None:
    before, weights, stock = traces(models.vae), copy.deepcopy(models.vae.state_dict()), models.stock()
    models.decode()
    assert traces(models.vae) == before
    assert all(torch.equal(weights[key], tensor) for key, tensor in models.vae.state_dict().items())
    assert torch.equal(models.stock(), stock)


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_the_autoencoder_is_left_as_it_was_after_an_error(models: Models, way: str) -> None:
    before, stock, features = traces(models.vae), models.stock(), models.features()

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    handle = getattr(models.vae, f"{way}r").conv_norm_out.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        if way == "encode":
            models.cfw.encode(models.vae, models.image)
        else:
            models.cfw.decode(models.vae, models.latents, features, 0.5)
    handle.remove()
    assert traces(models.vae) == before
    assert torch.equal(models.stock(), stock)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(models: Models, dtype: torch.dtype) -> None:
    expected = models.decode()
    models.cfw.to(dtype)
    output = models.decode()  # the autoencoder alone in float32, as with Stable Diffusion XL's
    assert output.dtype == torch.float32
    assert 0 < difference(output, expected) < 0.05
    models.vae.to(dtype)
    models.image, models.latents = models.image.to(dtype), models.latents.to(dtype)
    output = models.decode()
    assert output.dtype == dtype
    assert difference(output, expected) < 0.1


def test_slicing(models: Models) -> None:
    expected = models.decode()
    models.vae.enable_slicing()
    torch.testing.assert_close(models.decode(), expected)


@pytest.mark.filterwarnings("ignore:.*Dynamo.*")
@pytest.mark.parametrize("compiled_with_hooks", [False, True])
def test_compiled_autoencoder(models: Models, compiled_with_hooks: bool) -> None:
    """A compiled function looks for new hooks no more: neither must CFW be left out, nor stay in."""
    stock, expected = models.stock(), models.decode()
    for part in ("encoder", "decoder"):
        setattr(models.vae, part, torch.compile(getattr(models.vae, part), backend="eager"))
    if not compiled_with_hooks:
        torch.testing.assert_close(models.stock(), stock)
        models.vae.encode(models.image)
    torch.testing.assert_close(models.decode(), expected)
    torch.testing.assert_close(models.stock(), stock)


def group_offload(offload_type: str) -> Callable[[nn.Module], None]:
    def offload(model: nn.Module) -> None:
        options = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
        apply_group_offloading(model, onload_device="cpu", offload_device="cpu", offload_type=offload_type, **options)

    return offload


@pytest.mark.parametrize(
    "offload",
    [
        pytest.param(lambda model: accelerate.cpu_offload(model, torch.device("cpu")), id="sequential"),
        pytest.param(lambda model: accelerate.cpu_offload_with_hook(model, torch.device("cpu")), id="model"),
        pytest.param(group_offload("leaf_level"), id="group, leaf level"),
        pytest.param(group_offload("block_level"), id="group, block level"),
    ],
)
def test_offloading(models: Models, offload: Callable[[nn.Module], Any]) -> None:
    expected = models.decode()
    for model in (models.vae, models.cfw):
        offload(model)
    assert torch.equal(models.decode(), expected)
    assert torch.equal(models.decode(), expected)


def test_layerwise_casting(models: Models) -> None:
    expected = models.decode()
    for model in (models.vae, models.cfw):
        model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert 0 < difference(models.decode(), expected) < 0.1
    resnet = models.cfw.fusion_layers["1"].resnet_in
    assert (resnet.conv1.weight.dtype, resnet.norm1.weight.dtype) == (torch.bfloat16, torch.float32)


def test_the_autoencoders_own_tiling(models: Models) -> None:
    models.vae.enable_tiling()
    torch.testing.assert_close(models.decode(), Models().decode())  # small enough to be one tile
    models.image, models.latents = torch.zeros(1, 3, 72, 64), torch.zeros(1, 4, 9, 8)
    with pytest.raises(ValueError, match=r"own tiling cut an image of 64×72 pixels. Call vae.disable_tiling()"):
        models.features()
    models.vae.disable_tiling()
    features = models.features()
    models.vae.enable_tiling()
    with pytest.raises(ValueError, match=r"Call vae.disable_tiling\(\)"):
        models.cfw.decode(models.vae, models.latents, features, 0.5)


def test_an_autoencoder_that_checkpoints_gradients(models: Models) -> None:
    expected = models.decode()
    models.vae.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match=r"call vae.disable_gradient_checkpointing\(\)"):
        models.cfw.decode(models.vae, models.latents, models.features(), 0.5)
    assert torch.equal(models.decode(), expected)  # without gradients there is nothing to compute again
