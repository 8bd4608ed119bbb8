"""The hooks an adapter leaves in its hosts: where they are, and what each does to a call."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import pytest
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import nn

from diffusers_sr.attention.adapter import AttentionAdapter, HiddenStatesHook
from diffusers_sr.attention.hooks import ConditionEmbeddingHook
from diffusers_sr.attention.sites import check_site, check_site_channels, site_key
from diffusers_sr.coser.controlnet import LatentControlNetModel
from tests.attention.models import Models
from tests.components import tiny_controlnet


def register(module: nn.Module, hook: ModelHook) -> None:
    HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, "hook")


def hooks(host: nn.Module) -> dict[str, list[str]]:
    """The classes of the hooks at each module that has any."""
    return {
        name: [type(hook).__name__ for hook in module._diffusers_hook.hooks.values()]
        for name, module in host.named_modules()
        if hasattr(module, "_diffusers_hook")
    }


def test_one_hook_at_each_text_transformer_and_one_at_the_embedding_of_the_condition(models: Models) -> None:
    models.attach()
    sites = (
        "down_blocks.0.attentions.0",
        "mid_block.attentions.0",
        "up_blocks.1.attentions.0",
        "up_blocks.1.attentions.1",
    )
    assert hooks(models.unet) == {site: ["RepresentationHook"] for site in sites}
    assert hooks(models.controlnet) == {
        "controlnet_cond_embedding": ["ConditionEmbeddingHook"],
        "down_blocks.0.attentions.0": ["RepresentationHook"],
        "mid_block.attentions.0": ["RepresentationHook"],
    }
    models.adapter.detach(models.controlnet)
    assert hooks(models.controlnet) == {}
    assert len(hooks(models.unet)) == 4


def test_a_hooked_forward_keeps_its_name_and_signature(models: Models) -> None:
    sites = ("mid_block.attentions.0", "controlnet_cond_embedding")
    modules = {site: models.controlnet.get_submodule(site) for site in sites}
    before = {site: (module.forward.__name__, signature(module.forward)) for site, module in modules.items()}
    models.attach()
    assert {site: (module.forward.__name__, signature(module.forward)) for site, module in modules.items()} == before


def test_without_the_hook_of_the_condition_a_controlnet_is_not_attached(models: Models) -> None:
    models.attach()
    assert models.adapter.is_attached(models.controlnet)
    fresh = tiny_controlnet().controlnet_cond_embedding
    fresh.load_state_dict(models.controlnet.controlnet_cond_embedding.state_dict())
    models.controlnet.controlnet_cond_embedding = fresh.eval()
    assert not models.adapter.is_attached(models.controlnet)
    expected = models.controlnet_output()
    embedding = models.controlnet.controlnet_cond_embedding(models.image)
    models.attach()
    assert models.adapter.is_attached(models.controlnet)
    assert torch.equal(models.controlnet_output(embedding), expected)


@pytest.mark.parametrize("site", ["down_blocks.0.attentions.0", "mid_block.attentions.0"])
def test_without_the_hook_of_one_site_a_host_is_not_attached(models: Models, site: str) -> None:
    models.attach()
    for host in (models.unet, models.controlnet):
        registry = host.get_submodule(site)._diffusers_hook
        (name,) = registry.hooks
        registry.remove_hook(name, recurse=False)
        assert not models.adapter.is_attached(host)


def test_the_condition_hook_stays_as_long_as_an_adapter_does(models: Models) -> None:
    models.attach()
    other = models.new_adapter().attach(models.controlnet)
    models.adapter.detach()
    assert hooks(models.controlnet)["controlnet_cond_embedding"] == ["ConditionEmbeddingHook"]
    assert other.is_attached(models.controlnet) and not models.adapter.is_attached(models.controlnet)
    other.detach()
    assert hooks(models.controlnet) == {}


def test_a_controlnet_of_latents_has_no_condition_hook(models: Models) -> None:
    torch.manual_seed(0)
    controlnet = LatentControlNetModel.for_unet(models.unet)
    adapter = type(models.adapter).from_hosts(models.unet, controlnet, 16)
    adapter.attach(controlnet)
    assert adapter.is_attached(controlnet)
    assert set(hooks(controlnet)) == {"down_blocks.0.attentions.0", "mid_block.attentions.0"}
    adapter.detach()
    assert hooks(controlnet) == {}


def test_detaching_leaves_the_hosts_of_others_and_forgets_its_own(models: Models) -> None:
    models.attach()
    models.adapter.detach(models.unet)
    models.adapter.detach()
    assert hooks(models.unet) == hooks(models.controlnet) == {}
    copied = type(models.adapter).from_config(models.adapter.config).attach(models.unet)
    models.adapter.detach()  # it remembers neither host
    assert copied.is_attached(models.unet)


@pytest.mark.parametrize(("channels", "embedded"), [(8, False), (3, True)])
def test_what_has_the_channels_of_an_embedding_passes_through(channels: int, embedded: bool) -> None:
    """Unless an image has as many."""
    torch.manual_seed(0)
    module = ControlNetConditioningEmbedding(channels, block_out_channels=(4, 4, 4, 4)).eval()
    nn.init.normal_(module.conv_out.weight)
    given = torch.rand(1, channels, 16, 16)
    expected = module(given) if embedded else given
    register(module, ConditionEmbeddingHook())
    assert torch.equal(module(given), expected)
    image = torch.rand(1, 3, 16, 16)
    assert module(image).shape == (1, channels, 2, 2)


class Scaling(AttentionAdapter):
    """Multiplies hidden states by its weight, 3, and adds its conditioning."""

    @register_to_config
    def __init__(self, unet_sites: Sequence[str] = ("block.0",)) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(3.0))

    def prepare_conditioning(self, summand: float) -> float:
        return summand

    def scale(self, site: str, hidden_states: torch.Tensor) -> torch.Tensor:
        assert site == "block.0"
        return self.factor * hidden_states + self._conditioning


class Block(nn.Module):
    def forward(self, hidden_states: torch.Tensor, *others: int, **options: int) -> tuple[Any, ...]:
        return hidden_states, others, options


def test_hidden_states_are_replaced_however_they_are_given() -> None:
    adapter, block = Scaling(), Block()
    register(block, HiddenStatesHook(adapter, "unet", "block.0", "scale"))
    given, expected = torch.tensor([1.0, 2.0]), [4.0, 7.0]  # 3 · 1 + 1, 3 · 2 + 1
    assert block(given, 5, scale=6) == (given, (5,), {"scale": 6})
    with adapter.conditioning(summand=1.0):
        hidden_states, others, options = block(given, 5, scale=6)
        assert (hidden_states.tolist(), others, options) == (expected, (5,), {"scale": 6})
        hidden_states, others, options = block(hidden_states=given, scale=6)
        assert (hidden_states.tolist(), others, options) == (expected, (), {"scale": 6})
    assert block(hidden_states=given) == (given, (), {})
    with adapter.conditioning(summand=0.0):  # nothing, but not no conditioning
        assert block(given)[0].tolist() == [3.0, 6.0]


def test_activations_are_computed_again_only_where_there_are_gradients() -> None:
    adapter = Scaling()
    checkpointed: list[float] = []

    def checkpoint(function: Any, value: float) -> float:
        checkpointed.append(value)
        return function(value)

    def double(value: float) -> float:
        return 2 * value

    assert adapter.recomputed(double, 1.0) == 2.0
    adapter.enable_gradient_checkpointing(checkpoint)
    assert adapter.recomputed(double, 2.0) == 4.0
    with torch.no_grad():
        assert adapter.recomputed(double, 3.0) == 6.0
    adapter.disable_gradient_checkpointing()
    assert adapter.recomputed(double, 4.0) == 8.0
    assert checkpointed == [2.0]


def test_sites_as_keys_and_their_checks() -> None:
    assert site_key("mid_block.attentions.0") == "mid_block__attentions__0"
    linear = nn.Linear(1, 1)
    assert check_site("unet", "block.0", linear, nn.Linear) is linear
    with pytest.raises(
        ValueError, match=r"'block\.0' of the unet is a Linear, expected a Conv2d: use the adapter with"
    ):
        check_site("unet", "block.0", linear, nn.Conv2d)
    check_site_channels("unet", "block.0", 8, 8)
    with pytest.raises(ValueError, match=r"'block\.0' of the unet has 9 channels, but the adapter expects 8: use the"):
        check_site_channels("unet", "block.0", 9, 8)
