"""Layers that compute in float32 whatever they are given."""

import pytest
import torch
from torch import nn

from diffusers_sr.attention.float32 import Float32Conv2d, Float32GroupNorm


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return nn.Sequential(Float32Conv2d(2, 4, 3, padding=1), Float32GroupNorm(2, 4, eps=1e-6))


def stock(layers):
    conv, norm = nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4, eps=1e-6)
    conv.load_state_dict(layers[0].state_dict())
    norm.load_state_dict(layers[1].state_dict())
    return nn.Sequential(conv, norm).to(layers[0].weight.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_float32_and_float64_they_are_the_stock_layers(layers, dtype):
    layers.to(dtype)
    feature = torch.randn(1, 2, 5, 7, dtype=dtype)
    assert torch.equal(layers(feature), stock(layers)(feature))
    assert layers.state_dict().keys() == stock(layers).state_dict().keys()


def test_in_float16_they_stay_in_range(layers):
    layers[0].weight.data.mul_(10)
    layers.half()
    feature = 6e4 * torch.rand(1, 2, 5, 7).half()
    assert not stock(layers)(feature).isfinite().all()
    result = layers(feature)
    assert torch.equal(result, stock(layers).float()(feature.float()))
    assert result.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_not_change_them(layers, dtype):
    feature = 6e4 * torch.rand(1, 2, 5, 7)
    expected = layers(feature)
    with torch.autocast("cpu", dtype):
        assert torch.equal(layers(feature), expected)
