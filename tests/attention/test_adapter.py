"""`AttentionAdapter`: what attaching, detaching and conditioning must and must not do, shown on SeeSR's adapter."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import accelerate
import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook, apply_group_offloading
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from peft import LoraConfig
from torch import nn

from diffusers_sr.seesr.adapter import SeeSRAdapter
from tests.components import TEXT_DIM, randomise, tiny_controlnet, tiny_unet
from tests.seesr.components import REPRESENTATION_DIM

TOKENS = 5


class Models:
    """A UNet, a ControlNet and an adapter that is attached to neither yet, with inputs for a call."""

    def __init__(self, **overrides: Any) -> None:
        torch.manual_seed(0)
        self.unet = tiny_unet(**overrides).eval()
        self.controlnet = tiny_controlnet(**overrides).eval()
        self.adapter = self.new_adapter()
        self.sample = torch.randn(2, 4, 8, 8)
        self.text = torch.randn(2, 7, TEXT_DIM)
        self.image = torch.rand(2, 3, 64, 64)
        self.representation = torch.randn(2, TOKENS, REPRESENTATION_DIM)

    def new_adapter(self) -> SeeSRAdapter:
        return randomise(SeeSRAdapter.from_hosts(self.unet, self.controlnet, REPRESENTATION_DIM)).eval()

    def attach(self) -> Models:
        self.adapter.attach(self.unet).attach(self.controlnet)
        return self

    def unet_output(self, unet: nn.Module | None = None) -> torch.Tensor:
        unet = self.unet if unet is None else unet
        return unet(self.sample, 500, self.text, return_dict=False)[0]

    def controlnet_output(self, condition: torch.Tensor | None = None) -> torch.Tensor:
        condition = self.image if condition is None else condition
        down, middle = self.controlnet(self.sample, 500, self.text, condition, return_dict=False)
        return torch.cat([residual.flatten() for residual in (*down, middle)])

    def outputs(self) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([self.unet_output().flatten(), self.controlnet_output()])

    def conditioned_outputs(self) -> torch.Tensor:
        with self.adapter.conditioning(representation=self.representation):
            return self.outputs()


@pytest.fixture
def models() -> Models:
    return Models()


def leftovers(model: nn.Module) -> dict[str, Any]:
    """Everything attaching could leave behind in a model."""
    return {
        "representation": repr(model),
        "state": {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()},
        "processors": {name: id(processor) for name, processor in model.attn_processors.items()},
        "attributes": {name: sorted(module.__dict__) for name, module in model.named_modules()},
        "modules": {name: id(module) for name, module in model.named_modules()},
    }


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


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
        return torch._dynamo.lookup_backend("aot_eager")(graph, example_inputs)

    torch._dynamo.reset()
    compiled = torch.compile(models.unet, fullgraph=True, backend=count)
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
        return {name: parameter.grad.clone() for name, parameter in parts.named_parameters()}

    plain = gradients()
    assert all(gradient.any() for name, gradient in plain.items() if name.startswith("adapter"))
    for model in (models.unet, models.controlnet, models.adapter):
        model.enable_gradient_checkpointing()
        assert model.is_gradient_checkpointing
    checkpointed = gradients()
    for name, gradient in plain.items():
        assert torch.equal(gradient, checkpointed[name]), name


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
    assert copied["adapter"].is_attached(copied["unet"])
    assert not models.adapter.is_attached(copied["unet"])
    with copied["adapter"].conditioning(representation=models.representation):
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
