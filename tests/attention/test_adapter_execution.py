"""`AttentionAdapter` under what diffusers and torch do to models: compilation, LoRA, offloading, precision."""

from __future__ import annotations

from typing import Any

import accelerate
import pytest
import torch
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig
from torch import nn

from tests.attention.models import TOKENS, Models, difference
from tests.seesr.components import REPRESENTATION_DIM


@pytest.mark.parametrize("attach_first", [True, False])
def test_lora_on_an_attached_unet(models: Models, attach_first: bool) -> None:
    adapter_keys = set(models.adapter.state_dict())
    if attach_first:
        models.attach()
    models.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v", "proj_in"], init_lora_weights=False))
    models.attach()
    with_both = models.conditioned_outputs()
    with_lora = models.outputs()
    models.unet.disable_adapters()
    with_adapter = models.conditioned_outputs()
    stock = models.outputs()
    assert difference(with_lora, stock) > 1e-3
    assert difference(with_both, with_lora) > 1e-3
    assert difference(with_both, with_adapter) > 1e-3
    assert set(models.adapter.state_dict()) == adapter_keys

    models.unet.enable_adapters()
    models.adapter.detach()
    assert torch.equal(models.outputs(), with_lora)
    models.unet.delete_adapters("default")
    assert torch.equal(models.outputs(), stock)
    assert torch.equal(models.attach().conditioned_outputs(), with_adapter)


def test_compiles_as_one_graph_once(models: Models) -> None:
    models.attach()
    graphs = 0

    def count(graph: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Any:
        nonlocal graphs
        graphs += 1
        return torch._dynamo.lookup_backend("eager")(graph, example_inputs)

    torch._dynamo.reset()
    compiled = torch.compile(models.unet, fullgraph=True, backend=count)
    assert isinstance(compiled, nn.Module)
    assert models.adapter.is_attached(compiled)
    with torch.no_grad():
        for index in range(3):
            representation = torch.randn(2, TOKENS, REPRESENTATION_DIM)
            models.adapter.attach(compiled)  # what a pipeline does on every call
            with models.adapter.conditioning(representation=representation):
                expected = models.unet_output()
                assert difference(models.unet_output(compiled), expected) < 1e-5, index
        assert graphs == 1
        assert torch.equal(models.unet_output(compiled), models.unet_output())  # stock again: a second graph
        with models.adapter.conditioning(representation=representation):
            assert difference(models.unet_output(compiled), expected) < 1e-5
    assert graphs == 2


def test_attaching_to_a_compiled_unet_is_noticed(models: Models) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(models.unet, fullgraph=True, backend="eager")
    assert isinstance(compiled, nn.Module)
    with torch.no_grad():
        stock = models.unet_output(compiled)
        models.adapter.attach(compiled)
        with models.adapter.conditioning(representation=models.representation):
            assert torch.equal(models.unet_output(compiled), models.unet_output())
        assert torch.equal(models.unet_output(compiled), stock)


def test_repeated_blocks_compile_alone(models: Models) -> None:
    models.attach()
    expected = models.conditioned_outputs()
    torch._dynamo.reset()
    for model in (models.unet, models.adapter):
        model.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert difference(models.conditioned_outputs(), expected) < 1e-5


def test_gradient_checkpointing_gives_equal_gradients(models: Models) -> None:
    models.attach()
    for model in (models.unet, models.controlnet, models.adapter):
        model.train()

    def gradients() -> dict[str, torch.Tensor]:
        parts = nn.ModuleDict({"unet": models.unet, "controlnet": models.controlnet, "adapter": models.adapter})
        parts.zero_grad()
        models.adapter.set_conditioning(representation=models.representation)
        (models.unet_output().square().mean() + models.controlnet_output().square().mean()).backward()
        gradients = {}
        for name, parameter in parts.named_parameters():
            assert parameter.grad is not None, name
            gradients[name] = parameter.grad.clone()
        return gradients

    plain = gradients()
    assert all(gradient.any() for name, gradient in plain.items() if name.startswith("adapter"))
    for model in (models.unet, models.controlnet, models.adapter):
        model.enable_gradient_checkpointing()
        assert model.is_gradient_checkpointing
    checkpointed = gradients()
    for name, gradient in plain.items():
        assert torch.equal(gradient, checkpointed[name]), name


def test_attention_backend_reaches_the_adapter(models: Models) -> None:
    models.attach()
    expected = models.conditioned_outputs()
    try:
        models.adapter.set_attention_backend("_native_math")
        processors = [module.processor for module in models.adapter.modules() if hasattr(module, "processor")]
        assert processors and all(processor._attention_backend == "_native_math" for processor in processors)
        assert difference(models.conditioned_outputs(), expected) < 1e-5
        models.adapter.set_attention_backend("_native_cudnn")
        with pytest.raises(RuntimeError, match="No viable backend"):  # proof that it is asked: there is none on a CPU
            models.conditioned_outputs()
    finally:
        models.adapter.set_attention_backend("native")


@pytest.mark.parametrize("offload_type", ["leaf_level", "block_level"])
def test_group_offloading(models: Models, offload_type: str) -> None:
    models.attach()
    expected = models.conditioned_outputs()
    for model in (models.unet, models.controlnet, models.adapter):
        apply_group_offloading(
            model, onload_device="cpu", offload_device="cpu", offload_type=offload_type, num_blocks_per_group=1
        )
    assert torch.equal(models.conditioned_outputs(), expected)
    models.adapter.detach()
    assert torch.equal(models.attach().conditioned_outputs(), expected)


def test_offloaded_weights_are_brought_in_for_every_branch(models: Models) -> None:
    models.attach()
    expected = models.conditioned_outputs()
    accelerate.cpu_offload(models.adapter, execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in models.adapter.parameters())
    assert torch.equal(models.conditioned_outputs(), expected)


def test_all_computation_enters_through_forward(models: Models) -> None:
    calls = []
    models.adapter.register_forward_pre_hook(lambda module, arguments: calls.append(arguments[0]))
    models.attach().conditioned_outputs()
    sites = len(models.adapter.sites("unet")) + len(models.adapter.sites("controlnet"))
    assert calls == ["prepare_conditioning"] + ["attend_to_representation"] * sites


def test_layerwise_casting(models: Models) -> None:
    models.attach()
    expected = models.conditioned_outputs()
    models.adapter.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert 0 < difference(models.conditioned_outputs(), expected) < 0.5


def test_half_precision(models: Models) -> None:
    models.attach()
    expected = models.conditioned_outputs()
    for name in ("unet", "controlnet", "adapter", "sample", "text", "image", "representation"):
        setattr(models, name, getattr(models, name).to(torch.bfloat16))
    outputs = models.conditioned_outputs()
    assert outputs.dtype == torch.bfloat16
    assert (outputs - expected).norm() / expected.norm() < 0.05
