"""XPSR's attention as a component: trained, compiled, offloaded, in half precision, saved and loaded."""

from __future__ import annotations

import accelerate
import pytest
import torch
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_processor import AttnProcessor

from diffusers_sr.attention.control_features import control_features
from diffusers_sr.attention.processors import PreparedAttnProcessor, SelfAttnProcessor
from diffusers_sr.xpsr.adapter import XPSRAdapter
from tests.components import TEXT_DIM
from tests.xpsr.adapter_models import Models, difference


@pytest.fixture
def models() -> Models:
    return Models()


def test_keys_and_values_of_the_low_level_prompt_are_computed_once(models: Models) -> None:
    calls = []
    for parts in models.adapter.controlnet.values():
        parts["low_level"].transformer_blocks[0].attn2.to_k.register_forward_hook(lambda *_: calls.append(1))
    prepared = models.prepared()
    for _ in range(3):
        models.features(prepared)
    assert len(calls) == len(models.adapter.config.controlnet_sites)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_new_weight(models: Models, checkpointing: bool) -> None:
    parts = {"unet": models.unet, "controlnet": models.controlnet, "adapter": models.adapter}

    def gradients() -> dict[str, torch.Tensor]:
        for part in parts.values():
            part.zero_grad()
        models.adapter.set_conditioning(low_level=[models.prepared()])
        *down, middle = control_features(
            models.controlnet, models.sample, torch.tensor(500), models.text, models.image
        )
        models.adapter.set_conditioning(controls=[*down, middle])
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        output = models.unet(models.sample, 500, models.text, return_dict=False, **residuals)[0]
        output.square().mean().backward()
        return {
            f"{name}.{key}": parameter.grad.clone()
            for name, part in parts.items()
            for key, parameter in part.named_parameters()
        }

    for part in parts.values():
        part.train()
    expected = gradients()
    assert all(gradient.any() for name, gradient in expected.items() if not name.startswith("unet"))
    if checkpointing:
        for part in parts.values():
            part.enable_gradient_checkpointing()
            assert part.is_gradient_checkpointing
        for name, gradient in gradients().items():
            assert torch.equal(gradient, expected[name]), name


def test_hosts_compile_as_one_graph_once(models: Models) -> None:
    torch._dynamo.reset()
    unet, controlnet = (
        torch.compile(host, backend="eager", fullgraph=True) for host in (models.unet, models.controlnet)
    )
    for step in range(3):
        prepared, timestep = models.prepared(torch.randn(1, 5, TEXT_DIM)), torch.tensor(500 + step)
        with torch.no_grad(), torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            with models.adapter.conditioning(low_level=[prepared, prepared]):
                down, middle = controlnet(models.sample, timestep, models.text, models.image, return_dict=False)
                stock = models.controlnet(models.sample, timestep, models.text, models.image, return_dict=False)
            controls = [*down, middle]
            for one, other in zip(controls, [*stock[0], stock[1]], strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(models.noise(controls, unet=unet), models.noise(controls), atol=1e-5, rtol=1e-5)


def test_processors_can_be_replaced(models: Models) -> None:
    expected = models.outputs()
    for host in (models.unet, models.controlnet):
        host.set_attn_processor(AttnProcessor())
    for module in models.adapter.modules():
        if hasattr(module, "processor"):
            module.set_processor(AttnProcessor())
    torch.testing.assert_close(models.outputs(), expected, atol=1e-5, rtol=1e-5)
    kinds = {type(module.processor) for module in models.adapter.modules() if hasattr(module, "processor")}
    assert kinds == {SelfAttnProcessor, PreparedAttnProcessor}


def test_channels_last(models: Models) -> None:
    expected = models.outputs()
    for part in (models.unet, models.controlnet, models.adapter):
        part.to(memory_format=torch.channels_last)
    models.sample = models.sample.to(memory_format=torch.channels_last)
    torch.testing.assert_close(models.outputs(), expected, atol=1e-4, rtol=1e-4)


def test_half_precision(models: Models) -> None:
    expected = models.outputs()
    for name in ("unet", "controlnet", "adapter", "sample", "text", "low_level", "image"):
        setattr(models, name, getattr(models, name).to(torch.bfloat16))
    outputs = models.outputs()
    assert outputs.dtype == torch.bfloat16
    assert (outputs - expected).norm() / expected.norm() < 0.05


def test_weights_are_brought_in(models: Models) -> None:
    expected = models.outputs()
    accelerate.cpu_offload(models.adapter, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in models.adapter.parameters())
    assert torch.equal(models.outputs(), expected)


@pytest.mark.parametrize("offload_type", ["leaf_level", "block_level"])
def test_group_offloading(models: Models, offload_type: str) -> None:
    expected = models.outputs()
    for model in (models.unet, models.controlnet, models.adapter):
        apply_group_offloading(
            model, onload_device="cpu", offload_device="cpu", offload_type=offload_type, num_blocks_per_group=1
        )
    assert torch.equal(models.outputs(), expected)


def test_layerwise_casting(models: Models) -> None:
    expected = models.outputs()
    models.adapter.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert 0 < difference(models.outputs(), expected) < 0.5


@pytest.mark.parametrize("fusion", [True, False])
def test_it_is_saved_and_loaded(fusion: bool, tmp_path: object) -> None:
    models = Models(fusion=fusion)
    expected = models.outputs()
    models.adapter.save_pretrained(tmp_path)
    models.adapter.detach()
    models.adapter = XPSRAdapter.from_pretrained(tmp_path).eval().attach(models.unet).attach(models.controlnet)
    assert models.adapter.fuses_semantics is fusion
    torch.testing.assert_close(models.outputs(), expected, atol=1e-5, rtol=1e-5)  # weights of a file lie elsewhere
