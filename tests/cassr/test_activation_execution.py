"""SCEdit's tuners as a component: trained, saved and loaded, offloaded, in half precision, compiled."""

from __future__ import annotations

from typing import Any

import accelerate
import pytest
import torch

from diffusers_sr.cassr.activation import SCEditAdapter
from tests.cassr.activation_models import Models


@pytest.fixture
def models() -> Models:
    return Models()


def test_gradients_reach_the_adapter_only(models: Models) -> None:
    models.unet.requires_grad_(False)
    models.image.requires_grad_()
    models.adapter.set_conditioning(hints=models.adapter.embed(models.image))
    models.unet(models.sample, 500, models.text).sample.square().mean().backward()
    assert all(parameter.grad.any() for parameter in models.adapter.parameters())
    assert all(parameter.grad is None for parameter in models.unet.parameters())
    assert models.image.grad is not None and models.image.grad.any()


def test_gradient_checkpointing_gives_equal_gradients(models: Models) -> None:
    models.unet.requires_grad_(False).train()
    models.adapter.train()
    calls = []
    for module in (models.adapter.hint_embedding, *models.adapter.tuners):
        module.register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients() -> list[torch.Tensor]:
        calls.clear()
        models.adapter.zero_grad()
        models.adapter.set_conditioning(hints=models.adapter.embed(models.image), scale=0.8)
        models.unet(models.sample, 500, models.text).sample.square().mean().backward()
        return [parameter.grad.clone() for parameter in models.adapter.parameters()]

    plain = gradients()
    assert len(calls) == 5
    for model in (models.unet, models.adapter):
        model.enable_gradient_checkpointing()
        assert model.is_gradient_checkpointing
    for gradient, checkpointed in zip(plain, gradients(), strict=True):
        assert gradient.any()
        assert torch.equal(gradient, checkpointed)
    assert len(calls) == 10  # all computed again


def test_saves_and_loads(tmp_path: Any) -> None:
    models = Models(hint_channels=(4, 5, 6, 7), dense_hint_kernel=1, down_ratio=0.5)
    expected = models.conditioned()
    models.adapter.save_pretrained(tmp_path)
    models.adapter.detach()
    loaded, report = SCEditAdapter.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    again = SCEditAdapter.from_config(models.adapter.config).eval()
    again.load_state_dict(loaded.state_dict())
    for adapter in (loaded, again):
        models.adapter = adapter.attach(models.unet)
        assert torch.equal(models.conditioned(), expected)
        adapter.detach()


def test_an_image_is_embedded_once(models: Models) -> None:
    calls = []
    models.adapter.register_forward_pre_hook(lambda module, arguments: calls.append(arguments[0]))
    convolutions = []
    models.adapter.hint_embedding.register_forward_hook(lambda *_: convolutions.append(1))
    with models.adapter.conditioning(hints=models.embed()):
        for _ in range(3):
            models.call()
    assert len(convolutions) == 1
    # All computation with its weights enters through its forward.
    assert calls == ["dense_hints_of", "prepare_conditioning"] + ["edit_skips"] * 6


def test_offloaded_weights_are_brought_in(models: Models) -> None:
    expected = models.conditioned()
    accelerate.cpu_offload(models.adapter, execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in models.adapter.parameters())
    assert torch.equal(models.conditioned(), expected)


def test_half_precision(models: Models) -> None:
    expected = models.conditioned()
    for name in ("unet", "adapter", "sample", "text"):
        setattr(models, name, getattr(models, name).to(torch.bfloat16))
    output = models.conditioned()  # the image is still in float32
    assert output.dtype == torch.bfloat16
    assert (output - expected).norm() / expected.norm() < 0.05


def test_compiles_as_one_graph_once(models: Models) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(models.unet, backend="eager", fullgraph=True)
    assert isinstance(compiled, torch.nn.Module)
    for seed in range(3):
        hints = models.embed(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)))
        with models.adapter.conditioning(hints=hints):
            expected = models.call()
            with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
                torch.testing.assert_close(models.call(compiled), expected, atol=1e-5, rtol=1e-5)
