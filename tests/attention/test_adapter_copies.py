"""`AttentionAdapter`: copies of hosts and adapters, and several of either."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from diffusers_sr.attention.adapter import AttentionAdapter
from tests.attention.models import Models, difference, leftovers
from tests.components import tiny_unet


def test_copy_of_an_attached_host_has_its_own_weights(models: Models) -> None:
    models.attach()
    expected = models.conditioned_outputs()
    copied = copy.deepcopy(models.unet)
    assert models.adapter.is_attached(copied)
    with models.adapter.conditioning(representation=models.representation):
        assert torch.equal(models.unet_output(copied), models.unet_output())
        with torch.no_grad():
            copied.get_submodule("mid_block.attentions.0").proj_out.weight.add_(1)
        assert difference(models.unet_output(copied), models.unet_output()) > 1e-2
    assert torch.equal(models.conditioned_outputs(), expected)

    stock_keys = set(tiny_unet().state_dict())
    assert set(copied.state_dict()) == stock_keys
    models.adapter.detach(copied)
    assert {name: sorted(module.__dict__) for name, module in copied.named_modules()} == {
        name: sorted(module.__dict__) for name, module in tiny_unet().named_modules()
    }
    assert models.adapter.is_attached(models.unet)
    assert torch.equal(models.conditioned_outputs(), expected)


def test_copy_of_an_attached_controlnet_embeds_with_its_own_weights(models: Models) -> None:
    original = models.attach().controlnet
    expected = models.controlnet_output()
    models.controlnet = copy.deepcopy(original)
    assert torch.equal(models.controlnet_output(), expected)
    with torch.no_grad():
        models.controlnet.controlnet_cond_embedding.conv_out.weight.mul_(-1)
    changed = models.controlnet_output()
    assert difference(changed, expected) > 1e-2
    embedding = models.controlnet.controlnet_cond_embedding(models.image)
    assert torch.equal(models.controlnet_output(embedding), changed)
    models.controlnet = original
    assert torch.equal(models.controlnet_output(), expected)


def test_copy_of_an_adapter_is_attached_to_nothing(models: Models) -> None:
    models.attach()
    models.adapter.set_conditioning(representation=models.representation)
    expected = models.outputs()
    copied = copy.deepcopy(models.adapter)
    assert not copied.is_conditioned
    assert not copied.is_attached(models.unet)
    copied.detach()
    assert torch.equal(models.outputs(), expected)
    models.adapter.detach()
    models.adapter = copied
    assert torch.equal(models.attach().conditioned_outputs(), expected)


def test_copying_an_adapter_and_then_its_host_attaches_the_copies(models: Models) -> None:
    models.attach()
    copied = copy.deepcopy(nn.ModuleDict({"adapter": models.adapter, "unet": models.unet}))
    adapter = copied["adapter"]
    assert isinstance(adapter, AttentionAdapter)
    assert adapter.is_attached(copied["unet"])
    assert not models.adapter.is_attached(copied["unet"])
    with adapter.conditioning(representation=models.representation):
        conditioned = models.unet_output(copied["unet"])
    with models.adapter.conditioning(representation=models.representation):
        assert torch.equal(models.unet_output(), conditioned)


def test_one_adapter_serves_another_unet_too(models: Models) -> None:
    models.attach()
    torch.manual_seed(1)
    other = tiny_unet().eval()
    stock = models.unet_output(other)
    models.adapter.attach(other)
    with models.adapter.conditioning(representation=models.representation):
        first, second = models.unet_output(), models.unet_output(other)
    assert difference(first, second) > 1e-3
    assert difference(second, stock) > 1e-3
    models.adapter.detach(models.unet)
    assert models.adapter.is_attached(other)
    with models.adapter.conditioning(representation=models.representation):
        assert torch.equal(models.unet_output(other), second)


def test_adapter_does_not_keep_a_host_alive(models: Models) -> None:
    models.attach()
    host = weakref.ref(models.unet)
    models.unet = None
    gc.collect()
    assert host() is None
    models.adapter.detach()


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_adapters_on_one_host_do_not_disturb_each_other(models: Models, first_out: int) -> None:
    before = [leftovers(host) for host in (models.unet, models.controlnet)]
    torch.manual_seed(2)
    adapters = (models.adapter, models.new_adapter())
    alone = []
    for models.adapter in adapters:
        alone.append(models.attach().conditioned_outputs())
        models.adapter.detach()
    assert difference(*alone) > 1e-3

    for models.adapter in adapters:
        models.attach()
    for models.adapter, expected in zip(adapters, alone, strict=True):
        assert torch.equal(models.conditioned_outputs(), expected)
    adapters[first_out].detach()
    models.adapter = adapters[1 - first_out]
    assert models.adapter.is_attached(models.controlnet)
    assert torch.equal(models.conditioned_outputs(), alone[1 - first_out])
    models.adapter.detach()
    assert [leftovers(host) for host in (models.unet, models.controlnet)] == before
