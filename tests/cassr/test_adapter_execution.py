"""CasSR's attention as a component: trained, copied, compiled, offloaded, saved and loaded."""

from __future__ import annotations

import copy

import accelerate
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from diffusers_sr.cassr.adapter import CasSRAdapter
from diffusers_sr.coser.adapter import CoSeRAdapter
from tests.cassr.adapter_models import Models, difference, new_models
from tests.components import randomise


@pytest.fixture
def models() -> Models:
    return new_models()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_controlnet_and_new_attention_only(models: Models, checkpointing: bool) -> None:
    def gradients() -> dict[str, torch.Tensor]:
        for model in (models.controlnet, models.adapter):
            model.zero_grad()
        lr, reference = models.features(1), models.features(2)
        *down, middle = (first + second for first, second in zip(lr, reference, strict=True))
        models.adapter.set_conditioning(lr=lr, reference=reference)
        output = models.unet(
            models.sample,
            500,
            models.text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        output.square().sum().backward()
        return {
            f"{name}.{key}": parameter.grad.clone()
            for name, model in (("controlnet", models.controlnet), ("adapter", models.adapter))
            for key, parameter in model.named_parameters()
        }

    models.unet.requires_grad_(False).train()
    models.adapter.attach(models.unet)
    expected = gradients()
    assert all(gradient.any() for gradient in expected.values())
    assert all(parameter.grad is None for parameter in models.unet.parameters())
    if checkpointing:
        for model in (models.unet, models.controlnet.train(), models.adapter):
            model.enable_gradient_checkpointing()
            assert model.is_gradient_checkpointing
        for name, gradient in gradients().items():
            torch.testing.assert_close(gradient, expected[name])


def test_copy_of_an_attached_unet(models: Models) -> None:
    models.adapter.attach(models.unet)
    copied = copy.deepcopy(models.unet)
    with models.adapter.conditioning(**models.conditioning()):
        assert torch.equal(models.call(copied), models.call())
    assert models.adapter.is_attached(copied)
    models.adapter.detach(copied)
    with models.adapter.conditioning(**models.conditioning()):
        assert difference(models.call(copied), models.call()) > 1e-3


def test_compiles_as_one_graph_once(models: Models) -> None:
    models.adapter.attach(models.unet)
    compiled = torch.compile(models.unet, backend="eager", fullgraph=True)
    for seed in range(3):
        with models.adapter.conditioning(**models.conditioning(seed, seed + 5)):
            expected = models.call()
            with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
                torch.testing.assert_close(models.call(compiled), expected, atol=1e-5, rtol=1e-5)


def test_processors_of_the_host_can_be_replaced(models: Models) -> None:
    models.adapter.attach(models.unet)
    with models.adapter.conditioning(**models.conditioning()):
        expected = models.call()
        models.unet.set_attn_processor(AttnProcessor())
        torch.testing.assert_close(models.call(), expected, atol=1e-5, rtol=1e-5)
    assert models.adapter.is_attached(models.unet)


def test_offloaded_weights_are_brought_in(models: Models) -> None:
    models.adapter.attach(models.unet)
    with models.adapter.conditioning(**models.conditioning()):
        expected = models.call()
    accelerate.cpu_offload(models.adapter, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in models.adapter.parameters())
    with models.adapter.conditioning(**models.conditioning()):
        assert torch.equal(models.call(), expected)


def test_it_shares_a_unet_with_another_adapter(models: Models) -> None:
    """Two methods' hooks on the same transformer blocks, each with its own conditioning."""
    other = randomise(CoSeRAdapter.from_hosts(models.unet, models.controlnet)).eval()
    models.adapter.attach(models.unet)
    with models.adapter.conditioning(**models.conditioning()):
        expected = models.call()
        other.attach(models.unet)
        assert torch.equal(models.call(), expected)
        with other.conditioning(**models.conditioning()):
            assert difference(models.call(), expected) > 1e-3


def test_it_is_saved_and_loaded(models: Models, tmp_path: object) -> None:
    models.adapter.save_pretrained(tmp_path)
    loaded = CasSRAdapter.from_pretrained(tmp_path).eval()
    outputs = []
    for adapter in (models.adapter, loaded):
        with adapter.attach(models.unet).conditioning(**models.conditioning()):
            outputs.append(models.call())
        adapter.detach()
    assert difference(*outputs) < 1e-5  # weights of a file lie elsewhere in memory
