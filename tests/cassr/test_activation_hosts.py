"""The hosts that SCEdit's tuners fit, and those that they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from diffusers_sr.cassr.activation import SCEditAdapter
from tests.cassr.activation_models import Models, difference
from tests.components import randomise, tiny_controlnet, tiny_unet


@pytest.fixture
def models() -> Models:
    return Models()


def test_a_controlnet_has_nothing_to_edit(models: Models) -> None:
    controlnet = tiny_controlnet()
    down, _ = controlnet(models.sample, 500, models.text, models.image, return_dict=False)
    models.adapter.attach(controlnet)
    with models.adapter.conditioning(hints=models.embed()):
        attached, _ = controlnet(models.sample, 500, models.text, models.image, return_dict=False)
    assert all(torch.equal(*pair) for pair in zip(down, attached, strict=True))


@pytest.mark.parametrize(("kernel", "parameters"), [(3, 99.1), (1, 28.8)])
def test_sizes_at_stable_diffusion_1(kernel: int, parameters: float) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        adapter = SCEditAdapter.from_host(unet, dense_hint_kernel=kernel)
    assert adapter.config.skip_channels == [*[320] * 4, *[640] * 3, *[1280] * 5]
    assert adapter.config.downsamples == [3, 6, 9]
    assert sum(parameter.numel() for parameter in adapter.parameters()) / 1e6 == pytest.approx(parameters, abs=0.06)
    assert adapter.sites("unet") == {
        f"up_blocks.{number}": {"skips": [9 - 3 * number, 10 - 3 * number, 11 - 3 * number]} for number in range(4)
    }
    assert adapter.sites("controlnet") == {}


@pytest.mark.parametrize("layers", [1, 2, (1, 2, 1)])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_unets_of_other_levels(levels: int, layers: int | tuple[int, ...]) -> None:
    torch.manual_seed(0)
    if not isinstance(layers, int):
        layers = layers[:levels]
    unet = tiny_unet(
        block_out_channels=(8, 12, 16)[:levels],
        attention_head_dim=(2, 3, 4)[:levels],
        layers_per_block=layers,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
    )
    # A VAE of two levels: two pixels to a latent.
    adapter = randomise(SCEditAdapter.from_host(unet, hint_channels=(4, 6))).attach(unet)
    models = Models(size=(6, 5), attach=False)
    models.unet, models.adapter, models.image = unet, adapter, torch.rand(1, 3, 12, 10)
    stock = models.call()
    found: list[torch.Tensor] = []
    for block in unet.up_blocks:
        block.register_forward_pre_hook(
            lambda module, args, kwargs: found.__setitem__(slice(0, 0), kwargs["res_hidden_states_tuple"]),
            with_kwargs=True,
        )
    assert difference(models.conditioned(), stock) > 1e-3
    assert [hint.shape for hint in models.embed()] == [skip.shape for skip in found]


def test_images_of_another_shape_are_refused(models: Models) -> None:
    for shape in ((3, 64, 64), (1, 4, 64, 64)):
        with pytest.raises(ValueError, match=r"`image` has shape .*expected \[batch, 3, height, width\]"):
            models.adapter.embed(torch.rand(shape))


def test_hints_of_another_adapter_are_refused(models: Models) -> None:
    hints = models.embed()
    for wrong in (hints[:3], [*hints, hints[-1]], hints[::-1]):
        with pytest.raises(ValueError, match=r"`hints` have shapes .*expected \[8, 8, 8, 16\] channels: give all"):
            models.adapter.set_conditioning(hints=wrong)
    assert not models.adapter.is_conditioned


def test_hints_of_another_size_or_batch_are_refused(models: Models) -> None:
    message = r"hint of skip connection 2 has the size \[4, 4\].*make it \[8, 4\]: embed"
    with models.adapter.conditioning(hints=models.embed()), pytest.raises(ValueError, match=message):
        models.call(sample=torch.randn(1, 4, 16, 8))
    message = "for 2 images, which does not divide the batch of 3"
    hints = models.embed(models.image.repeat(2, 1, 1, 1))
    with models.adapter.conditioning(hints=hints), pytest.raises(ValueError, match=message):
        models.call(sample=torch.randn(3, 4, 8, 8))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"block_out_channels": (8, 32)}, r"'up_blocks.0' of the unet has 32 channels, but the adapter expects 16"),
        (
            {"layers_per_block": 2},
            r"'up_blocks.0' of the unet takes 3 skip connections, but the adapter expects 2: use",
        ),
        (
            {
                "block_out_channels": (8,),
                "down_block_types": ("DownBlock2D",),
                "up_block_types": ("UpBlock2D",),
                "attention_head_dim": 2,
            },
            r"'up_blocks.0' of the unet has 8 channels, but the adapter expects 16",
        ),
    ],
)
def test_a_unet_of_another_shape_is_refused(models: Models, overrides: dict[str, Any], message: str) -> None:
    other = tiny_unet(**overrides)
    with pytest.raises(ValueError, match=message):
        models.adapter.attach(other)
    assert not models.adapter.is_attached(other)


def test_other_models_are_refused(models: Models) -> None:
    with pytest.raises(TypeError, match="not to a Linear"):
        models.adapter.attach(nn.Linear(1, 1))
