"""`AttentionAdapter`: what attaching, detaching and conditioning must and must not do, shown on SeeSR's adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn

from diffusers_sr.seesr.adapter import SeeSRAdapter
from tests.attention.models import TOKENS, Models, difference, leftovers
from tests.components import tiny_unet
from tests.seesr.components import REPRESENTATION_DIM


# What follows compares outputs for equality: first of all, everything has to make a difference.
def test_adapter_and_representation_change_both_hosts(models: Models) -> None:
    stock_unet, stock_controlnet = models.unet_output(), models.controlnet_output()
    models.attach()
    with models.adapter.conditioning(representation=models.representation):
        unet, controlnet = models.unet_output(), models.controlnet_output()
    with models.adapter.conditioning(representation=-models.representation):
        other_unet, other_controlnet = models.unet_output(), models.controlnet_output()
    assert difference(stock_unet, unet) > 1e-2
    assert difference(stock_controlnet, controlnet) > 1e-2
    assert difference(other_unet, unet) > 1e-3
    assert difference(other_controlnet, controlnet) > 1e-3


def test_attach_and_detach_are_exact_inverses(models: Models) -> None:
    hosts = (models.unet, models.controlnet)
    before, stock = [leftovers(host) for host in hosts], models.outputs()

    models.attach()
    attached = models.conditioned_outputs()
    for host, state in zip(hosts, before, strict=True):
        assert models.adapter.is_attached(host)
        now = leftovers(host)
        assert {name: now[name] for name in now if name != "attributes"} == {
            name: state[name] for name in state if name != "attributes"
        }

    models.adapter.detach()
    assert [leftovers(host) for host in hosts] == before
    assert not models.adapter.is_attached(models.unet)
    assert torch.equal(models.conditioned_outputs(), stock)

    models.attach()
    assert torch.equal(models.conditioned_outputs(), attached)
    models.adapter.detach(models.unet)
    assert leftovers(models.unet) == before[0]
    assert models.adapter.is_attached(models.controlnet)


def test_attaching_twice_is_attaching_once(models: Models) -> None:
    models.attach()
    once = models.conditioned_outputs()
    forwards = [module.forward for module in models.unet.modules()]
    models.attach()
    assert [module.forward for module in models.unet.modules()] == forwards
    assert torch.equal(models.conditioned_outputs(), once)


def test_attaching_again_fills_a_replaced_block(models: Models) -> None:
    models.attach()
    expected = models.conditioned_outputs()
    fresh = tiny_unet().mid_block
    fresh.load_state_dict(models.unet.mid_block.state_dict())
    models.unet.mid_block = fresh.eval()
    assert not models.adapter.is_attached(models.unet)
    models.attach()
    assert torch.equal(models.conditioned_outputs(), expected)


def test_without_conditioning_attached_is_stock(models: Models) -> None:
    stock = models.outputs()
    models.attach()
    assert torch.equal(models.outputs(), stock)
    models.conditioned_outputs()
    assert torch.equal(models.outputs(), stock)


def test_conditioning_is_scoped_and_restored(models: Models) -> None:
    models.attach()
    other = torch.randn(2, TOKENS, REPRESENTATION_DIM)
    models.adapter.set_conditioning(representation=models.representation)
    expected = models.outputs()
    with models.adapter.conditioning(representation=other):
        assert difference(models.outputs(), expected) > 1e-3
    assert torch.equal(models.outputs(), expected)
    with pytest.raises(KeyboardInterrupt), models.adapter.conditioning(representation=other):
        raise KeyboardInterrupt
    assert torch.equal(models.outputs(), expected)
    models.adapter.clear_conditioning()
    assert not models.adapter.is_conditioned


@pytest.mark.parametrize("role", ["unet", "controlnet"])
def test_attached_host_saves_and_loads_as_stock(models: Models, role: str, tmp_path: Any) -> None:
    models.attach()
    host = getattr(models, role)
    host.save_pretrained(tmp_path)
    loaded, report = type(host).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    stock = models.outputs()
    setattr(models, role, loaded.eval())
    assert torch.equal(models.outputs(), stock)


def test_adapter_saves_and_loads_alone(models: Models, tmp_path: Any) -> None:
    models.attach()
    expected = models.conditioned_outputs()
    models.adapter.save_pretrained(tmp_path)
    models.adapter.detach()
    loaded, report = SeeSRAdapter.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert not loaded.is_attached(models.unet)
    models.adapter = loaded.eval()
    assert torch.equal(models.attach().conditioned_outputs(), expected)


def test_other_hooks_on_a_host_stay(models: Models) -> None:
    class Double(ModelHook):
        def post_forward(self, module: nn.Module, output: Any) -> Any:
            return (2 * output[0],)

    site = models.unet.get_submodule("mid_block.attentions.0")
    HookRegistry.check_if_exists_or_initialize(site).register_hook(Double(), "before")
    doubled = models.outputs()
    models.attach()
    HookRegistry.check_if_exists_or_initialize(site).register_hook(Double(), "after")
    quadrupled = models.outputs()
    assert difference(quadrupled, doubled) > 1e-3
    models.adapter.detach()
    assert torch.equal(models.outputs(), quadrupled)
    site._diffusers_hook.remove_hook("after")
    assert torch.equal(models.outputs(), doubled)


@pytest.mark.parametrize(
    "replace",
    [
        lambda unet: unet.set_attn_processor(AttnProcessor2_0()),
        lambda unet: unet.set_attn_processor(AttnProcessor()),
        lambda unet: unet.set_default_attn_processor(),
        lambda unet: unet.fuse_qkv_projections(),
        lambda unet: unet.set_attention_slice("auto"),
    ],
    ids=["new processors", "other processors", "default processors", "fused projections", "sliced attention"],
)
def test_survives_calls_that_replace_processors(models: Models, replace: Any) -> None:
    models.attach()
    stock, expected = models.outputs(), models.conditioned_outputs()
    replace(models.unet)
    assert models.adapter.is_attached(models.unet)
    assert difference(models.outputs(), stock) < 1e-5
    assert difference(models.conditioned_outputs(), expected) < 1e-5
