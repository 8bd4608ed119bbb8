"""`AttentionAdapter`: which hosts it takes, and a ControlNet's embedded condition image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.attention.models import Models, leftovers
from tests.components import tiny_controlnet, tiny_unet


@pytest.mark.parametrize("conditioned", [True, False])
def test_embedded_condition_image_passes_through(models: Models, conditioned: bool) -> None:
    from_image = models.outputs()
    models.attach()
    if conditioned:
        models.adapter.set_conditioning(representation=models.representation)
        from_image = models.outputs()
    with torch.no_grad():
        embedding = models.controlnet.controlnet_cond_embedding(models.image)
    assert embedding.shape == (2, 8, 8, 8)
    models.image = embedding
    assert torch.equal(models.outputs(), from_image)


def test_embedded_condition_image_needs_an_attached_controlnet(models: Models) -> None:
    embedding = models.controlnet.controlnet_cond_embedding(models.image)
    with pytest.raises(RuntimeError):
        models.controlnet_output(embedding)


def test_reversed_channels_are_refused(models: Models) -> None:
    controlnet = tiny_controlnet(controlnet_conditioning_channel_order="bgr")
    with pytest.raises(ValueError, match=r"'bgr'.*'rgb'.*re-order"):
        models.adapter.attach(controlnet)
    assert not models.adapter.is_attached(controlnet)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (
            lambda: tiny_unet(block_out_channels=(16, 16), cross_attention_dim=16),
            r"'down_blocks.0.attentions.0'.* 16 channels.*expects 8.*use the adapter with",
        ),
        (
            lambda: tiny_unet(down_block_types=("DownBlock2D", "CrossAttnDownBlock2D")),
            r"weights for 'down_blocks.0.attentions.0'.*no such module.*use the adapter with",
        ),
    ],
)
def test_a_host_of_another_shape_is_refused_untouched(models: Models, host: Any, message: str) -> None:
    unet = host()
    before = leftovers(unet)
    with pytest.raises(ValueError, match=message):
        models.adapter.attach(unet)
    assert leftovers(unet) == before


@pytest.mark.parametrize("model", [nn.Linear(1, 1), nn.ModuleList()])
def test_other_models_are_refused(models: Models, model: nn.Module) -> None:
    message = rf"UNet2DConditionModel or a ControlNetModel, not to a {type(model).__name__}"
    for method in (models.adapter.attach, models.adapter.detach, models.adapter.is_attached):
        with pytest.raises(TypeError, match=message):
            method(model)
