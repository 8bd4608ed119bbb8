"""SeeSR's representation transformers: the right ones, exact, and computed no more often than needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0, XFormersAttnProcessor
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn

from diffusers_sr.attention.processors import PreparedAttnProcessor, SelfAttnProcessor, repeat_to_batch
from diffusers_sr.seesr.adapter import SeeSRAdapter
from tests.components import STABLE_DIFFUSION_2, TEXT_DIM, randomise, tiny_controlnet, tiny_unet
from tests.seesr.components import REPRESENTATION_DIM

SITE = "mid_block.attentions.0"
KEY = "mid_block__attentions__0"


def new_adapter(**overrides: object) -> tuple[UNet2DConditionModel, SeeSRAdapter]:
    torch.manual_seed(0)
    unet, controlnet = tiny_unet(**overrides).eval(), tiny_controlnet(**overrides)
    adapter = randomise(SeeSRAdapter.from_hosts(unet, controlnet, REPRESENTATION_DIM)).eval()
    return unet, adapter.attach(unet)


def call(unet: UNet2DConditionModel, sample: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return unet(sample, 500, text, return_dict=False)[0]


def test_new_adapter_starts_as_the_stock_model() -> None:
    torch.manual_seed(0)
    unet, controlnet = tiny_unet().eval(), tiny_controlnet().eval()
    sample, text, image = torch.randn(2, 4, 8, 8), torch.randn(2, 7, TEXT_DIM), torch.rand(2, 3, 64, 64)
    stock = call(unet, sample, text)
    stock_down, _ = controlnet(sample, 500, text, image, return_dict=False)
    adapter = SeeSRAdapter.from_hosts(unet, controlnet, REPRESENTATION_DIM).attach(unet).attach(controlnet)
    with adapter.conditioning(representation=torch.randn(2, 5, REPRESENTATION_DIM)):
        assert torch.equal(call(unet, sample, text), stock)
        down, _ = controlnet(sample, 500, text, image, return_dict=False)
    assert all(torch.equal(first, second) for first, second in zip(down, stock_down, strict=True))


def test_sizes_at_stable_diffusion_2() -> None:
    with torch.device("meta"):
        unet, controlnet = UNet2DConditionModel(**STABLE_DIFFUSION_2), ControlNetModel(**STABLE_DIFFUSION_2)
        adapter = SeeSRAdapter.from_hosts(unet, controlnet)
    for part, sites, parameters in ((adapter.unet, 16, 260.85), (adapter.controlnet, 7, 124.80)):
        assert len(part) == sites
        assert len(part.state_dict()) == 26 * sites
        assert sum(parameter.numel() for parameter in part.parameters()) / 1e6 == pytest.approx(parameters, abs=5e-3)
    assert list(adapter.sites("controlnet")) == [
        *(f"down_blocks.{block}.attentions.{layer}" for block in range(3) for layer in range(2)),
        SITE,
    ]


@pytest.mark.filterwarnings("ignore:.*Transformer2DModelOutput:FutureWarning")
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_representation_transformer_is_a_stock_transformer(linear: bool, layers: int) -> None:
    unet, adapter = new_adapter(use_linear_projection=linear, transformer_layers_per_block=layers)
    text_transformer = unet.get_submodule(SITE)
    reference = Transformer2DModel(**{**text_transformer.config, "cross_attention_dim": REPRESENTATION_DIM})
    reference.load_state_dict(adapter.unet[KEY].state_dict())
    assert all(
        isinstance(module.processor, AttnProcessor2_0) for module in reference.modules() if is_attention(module)
    )

    hidden_states, text = torch.randn(6, 16, 3, 5), torch.randn(6, 7, TEXT_DIM)
    representation = torch.randn(2, 5, REPRESENTATION_DIM)
    with torch.no_grad(), adapter.conditioning(representation=representation):
        output = text_transformer(hidden_states, text)
        (as_tuple,) = text_transformer(hidden_states, text, return_dict=False)
        adapter.clear_conditioning()
        (stock,) = text_transformer(hidden_states, text, return_dict=False)
        (expected,) = reference(stock, representation.repeat(3, 1, 1), return_dict=False)
    assert isinstance(output, Transformer2DModelOutput)
    assert torch.equal(output.sample, as_tuple)
    assert (output.sample - stock).abs().max() > 1e-2
    torch.testing.assert_close(output.sample, expected, atol=1e-6, rtol=1e-5)


def is_attention(module: nn.Module) -> bool:
    return hasattr(module, "processor")


def test_one_batch_of_halves_and_tiles_equals_separate_calls() -> None:
    unet, adapter = new_adapter()
    sample, text = torch.randn(6, 4, 8, 8), torch.randn(6, 7, TEXT_DIM)
    with adapter.conditioning(representation=torch.randn(2, 5, REPRESENTATION_DIM)):
        together = call(unet, sample, text)
        apart = [call(unet, *part) for part in zip(sample.split(2), text.split(2), strict=True)]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-6, rtol=1e-5)


def test_keys_and_values_are_computed_once() -> None:
    unet, adapter = new_adapter()
    counts = {"to_k": 0, "to_v": 0, "to_q": 0}
    for name, module in adapter.named_modules():
        projection = name.rpartition(".")[2]
        if ".attn2." in name and projection in counts:

            def count(*_: object, projection: str = projection) -> None:
                counts[projection] += 1

            module.register_forward_hook(count)
    with adapter.conditioning(representation=torch.randn(1, 5, REPRESENTATION_DIM)):
        for batch in (1, 2, 4):
            call(unet, torch.randn(batch, 4, 8, 8), torch.randn(batch, 7, TEXT_DIM))
    # Four sites in the UNet and two in the ControlNet.
    assert counts == {"to_k": 6, "to_v": 6, "to_q": 3 * 4}


def test_gradients_reach_the_representation_and_every_weight() -> None:
    unet, adapter = new_adapter()
    representation = torch.randn(1, 5, REPRESENTATION_DIM, requires_grad=True)
    adapter.set_conditioning(representation=representation)
    unet(torch.randn(2, 4, 8, 8), 500, torch.randn(2, 7, TEXT_DIM), return_dict=False)[0].square().mean().backward()
    for tensor in (representation, *adapter.unet.parameters()):
        assert tensor.grad is not None and tensor.grad.any()


@pytest.mark.parametrize("shape", [(2, REPRESENTATION_DIM), (2, 5, REPRESENTATION_DIM + 1)])
def test_representation_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    _, adapter = new_adapter()
    with pytest.raises(ValueError, match=r"`representation` has shape \[2, .*expected \[batch, tokens, 16\]: give"):
        adapter.set_conditioning(representation=torch.randn(shape))
    assert not adapter.is_conditioned


def test_batch_that_is_no_multiple_is_refused() -> None:
    unet, adapter = new_adapter()
    with (
        adapter.conditioning(representation=torch.randn(2, 5, REPRESENTATION_DIM)),
        pytest.raises(ValueError, match="for 2 images, which does not divide the batch of 3"),
    ):
        call(unet, torch.randn(3, 4, 8, 8), torch.randn(3, 7, TEXT_DIM))


def test_repetition_keeps_the_image_fastest() -> None:
    tensor = torch.arange(2)[:, None]
    assert repeat_to_batch(tensor, 6).flatten().tolist() == [0, 1, 0, 1, 0, 1]
    assert repeat_to_batch(tensor, 2) is tensor


def test_own_processors_come_back_when_replaced() -> None:
    """`enable_xformers_memory_efficient_attention` of a pipeline reaches every attention of every component."""
    unet, adapter = new_adapter()
    sample, text = torch.randn(1, 4, 8, 8), torch.randn(1, 7, TEXT_DIM)
    representation = torch.randn(1, 5, REPRESENTATION_DIM)
    with adapter.conditioning(representation=representation):
        expected = call(unet, sample, text)
    attentions = [module for module in adapter.modules() if is_attention(module)]
    for attention in attentions:
        attention.set_processor(AttnProcessor2_0())
    with adapter.conditioning(representation=representation):
        assert torch.equal(call(unet, sample, text), expected)

    for attention in attentions:
        attention.set_processor(XFormersAttnProcessor())
    adapter.set_conditioning(representation=representation)
    for attention in attentions:
        assert isinstance(attention.processor, SelfAttnProcessor | PreparedAttnProcessor)
        assert attention.processor._attention_backend == "xformers"


def test_without_rca_there_are_no_weights_and_the_representation_makes_no_difference(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet, controlnet = tiny_unet().eval(), tiny_controlnet()
    adapter = SeeSRAdapter.from_hosts(unet, controlnet, REPRESENTATION_DIM, rca=False)
    assert not list(adapter.parameters())
    adapter.save_pretrained(tmp_path)
    adapter = SeeSRAdapter.from_pretrained(tmp_path).attach(unet).attach(controlnet)
    assert adapter.dtype == torch.float32
    sample, text, image = torch.randn(2, 4, 8, 8), torch.randn(2, 7, TEXT_DIM), torch.rand(2, 3, 64, 64)

    def outputs() -> list[torch.Tensor]:
        with torch.no_grad():
            down, middle = controlnet(sample, 500, text, image, return_dict=False)
        return [call(unet, sample, text), middle, *down]

    stock = outputs()
    with adapter.conditioning(representation=torch.randn(2, 5, REPRESENTATION_DIM)):
        assert all(torch.equal(*pair) for pair in zip(outputs(), stock, strict=True))
