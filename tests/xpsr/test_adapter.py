"""XPSR's semantic fusion and pixel attention: what they compute, where, and that they come off without a trace."""

from __future__ import annotations

import copy
from typing import Any

import accelerate
import pytest
import torch
from diffusers import ControlNetModel, Transformer2DModel, UNet2DConditionModel
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from diffusers_sr.attention.control_features import control_features
from diffusers_sr.attention.processors import PreparedAttnProcessor, SelfAttnProcessor
from diffusers_sr.xpsr.adapter import XPSRAdapter
from tests.components import TEXT_DIM, randomise, tiny_controlnet, tiny_unet

FUSION_SITE = "down_blocks.0.attentions.0"
PIXEL_SITES = {"up_blocks.0.resnets.0": 3, "up_blocks.0.resnets.1": 2, "up_blocks.1.attentions.0": 1}


class Models:
    """A UNet, a ControlNet and their adapter, attached, with inputs for a batch of two."""

    def __init__(self, fusion: bool = True, height: int = 8, width: int = 8, **overrides: Any) -> None:
        torch.manual_seed(0)
        self.unet, self.controlnet = tiny_unet(**overrides).eval(), tiny_controlnet(**overrides).eval()
        self.adapter = randomise(XPSRAdapter.from_hosts(self.unet, self.controlnet, fusion=fusion)).eval()
        self.sample = torch.randn(2, 4, height, width)
        self.text, self.low_level = torch.randn(2, 7, TEXT_DIM), torch.randn(2, 5, TEXT_DIM)
        self.image = torch.rand(2, 3, 8 * height, 8 * width)
        self.adapter.attach(self.unet).attach(self.controlnet)

    def prepared(self, low_level: torch.Tensor | None = None) -> Any:
        return self.adapter("prepare_low_level", self.low_level if low_level is None else low_level)

    def features(self, *prepared: Any, copies: int = 1, image: torch.Tensor | None = None) -> list[torch.Tensor]:
        image = self.image if image is None else image
        given = (tensor.repeat(copies, *(1,) * (tensor.ndim - 1)) for tensor in (self.sample, self.text, image))
        sample, text, image = given
        with self.adapter.conditioning(low_level=list(prepared) or None):
            return control_features(self.controlnet, sample, torch.tensor(500), text, image)

    def noise(
        self, controls: list[torch.Tensor] | None, copies: int = 1, unet: Any = None, skips: bool = True
    ) -> torch.Tensor:
        sample, text = (tensor.repeat(copies, *(1,) * (tensor.ndim - 1)) for tensor in (self.sample, self.text))
        residuals = {}
        if skips and controls is not None:
            *down, middle = controls
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        with self.adapter.conditioning(controls=controls):
            return (self.unet if unet is None else unet)(sample, 500, text, return_dict=False, **residuals)[0]

    @torch.no_grad()
    def outputs(self) -> torch.Tensor:
        controls = self.features(*([self.prepared()] if self.adapter.fuses_semantics else []))
        return torch.cat([tensor.flatten() for tensor in (*controls, self.noise(controls))])

    @torch.no_grad()
    def stock_outputs(self) -> torch.Tensor:
        sample, text = self.sample, self.text
        *down, middle = control_features(self.controlnet, sample, torch.tensor(500), text, self.image)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        output = self.unet(sample, 500, text, return_dict=False, **residuals)[0]
        return torch.cat([tensor.flatten() for tensor in (*down, middle, output)])


@pytest.fixture
def models() -> Models:
    return Models()


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


def stock_copy(transformer: Transformer2DModel, cross_attention_dim: int) -> Transformer2DModel:
    """The same weights in diffusers' own classes, with its own processors."""
    stock = Transformer2DModel(**{**transformer.config, "cross_attention_dim": cross_attention_dim}).eval()
    stock.load_state_dict(transformer.state_dict())
    assert all(isinstance(each.processor, AttnProcessor2_0) for each in stock.modules() if hasattr(each, "processor"))
    return stock


@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_new_adapter_starts_as_the_stock_models(size: tuple[int, int]) -> None:
    models = Models(height=size[0], width=size[1])
    stock = models.stock_outputs()
    assert difference(models.outputs(), stock) > 1e-2
    models.adapter.detach()
    models.adapter = XPSRAdapter.from_hosts(models.unet, models.controlnet).attach(models.unet)
    models.adapter.attach(models.controlnet)
    assert torch.equal(models.outputs(), stock)


def test_unconditioned_hosts_are_stock(models: Models) -> None:
    attached = models.stock_outputs()
    controls = models.features()
    with models.adapter.conditioning():
        conditioned_on_nothing = models.stock_outputs()
    output = models.noise(None)
    models.adapter.detach()
    assert torch.equal(attached, models.stock_outputs())
    assert torch.equal(conditioned_on_nothing, attached)
    assert torch.equal(output, models.noise(None))
    assert all(torch.equal(*pair) for pair in zip(controls, models.features(), strict=True))


def test_semantic_fusion_is_two_stock_transformers(models: Models) -> None:
    site = models.controlnet.get_submodule(FUSION_SITE)
    parts = models.adapter.controlnet[FUSION_SITE.replace(".", "__")]
    low_level, fusion = stock_copy(parts["low_level"], TEXT_DIM), stock_copy(parts["fusion"], 8)
    hidden_states = torch.randn(2, 8, 3, 5)
    with torch.no_grad():
        (high,) = site(hidden_states, models.text, return_dict=False)
        (low,) = low_level(hidden_states, models.low_level, return_dict=False)
        (expected,) = fusion(high, low.flatten(2).transpose(1, 2), return_dict=False)
        with models.adapter.conditioning(low_level=[models.prepared()]):
            (output,) = site(hidden_states, models.text, return_dict=False)
            by_name = site(hidden_states=hidden_states, encoder_hidden_states=models.text).sample
    assert difference(output, high) > 1e-2
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(by_name, output)


@pytest.mark.parametrize("site", PIXEL_SITES)
def test_pixel_attention_is_a_stock_transformer(models: Models, site: str) -> None:
    module = models.unet.get_submodule(site)
    controls = models.features(models.prepared())
    feature = controls[PIXEL_SITES[site]]
    attention = stock_copy(models.adapter.unet[site.replace(".", "__")], feature.shape[1])
    channels = models.adapter.config.unet_sites[site]["in_channels"]
    arguments = (torch.randn(2, channels, *feature.shape[-2:]), models.text)
    if ".resnets." in site:
        arguments = (torch.randn(2, module.in_channels, *feature.shape[-2:]), torch.randn(2, 32))

    def call() -> torch.Tensor:
        output = module(*arguments)
        return output if isinstance(output, torch.Tensor) else output.sample

    with torch.no_grad():
        stock = call()
        (expected,) = attention(stock, feature.flatten(2).transpose(1, 2), return_dict=False)
        with models.adapter.conditioning(controls=controls):
            output = call()
    assert difference(output, stock) > 1e-2
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_sites_of_stable_diffusion_1() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8, cross_attention_dim=768
        )
        controlnet = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        adapter = XPSRAdapter.from_hosts(unet, controlnet)
    assert {
        site: (options["in_channels"], options["control_channels"], options["control_index"])
        for site, options in adapter.config.unet_sites.items()
    } == {
        **{f"up_blocks.0.resnets.{layer}": (1280, 1280, 11 - layer) for layer in range(3)},
        **{
            f"up_blocks.{block}.attentions.{layer}": (channels, control, 11 - 3 * block - layer)
            for block, channels, controls in (
                (1, 1280, (1280, 1280, 640)),
                (2, 640, (640, 640, 320)),
                (3, 320, [320] * 3),
            )
            for layer, control in enumerate(controls)
        },
    }
    assert list(adapter.config.controlnet_sites) == [
        *(f"down_blocks.{block}.attentions.{layer}" for block in range(3) for layer in range(2)),
        "mid_block.attentions.0",
    ]
    assert sum(parameter.numel() for parameter in adapter.unet.parameters()) == 248_234_560
    assert sum(parameter.numel() for parameter in adapter.controlnet.parameters()) == 127_752_320 + 130_783_360


def test_new_transformers_start_from_the_controlnets(models: Models) -> None:
    stock = models.controlnet.get_submodule(FUSION_SITE).state_dict()
    with torch.random.fork_rng():
        new = XPSRAdapter.from_hosts(models.unet, models.controlnet).controlnet[FUSION_SITE.replace(".", "__")]
    assert all(torch.equal(new["low_level"].state_dict()[key], tensor) for key, tensor in stock.items())
    for key, tensor in new["fusion"].state_dict().items():
        if key.startswith("proj_out"):
            assert not tensor.any()
        elif not key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            assert torch.equal(tensor, stock[key]), key


def test_heads_of_every_level() -> None:
    models = Models(attention_head_dim=(2, 4))
    heads = {site: options["num_attention_heads"] for site, options in models.adapter.config.unet_sites.items()}
    assert [heads[site] for site in ("up_blocks.0.resnets.0", "up_blocks.1.attentions.1")] == [4, 2]


def test_sites_that_are_left_out(models: Models) -> None:
    models.adapter.detach()
    adapter = XPSRAdapter.from_hosts(models.unet, models.controlnet, leave_out=["up_blocks.1", "down_blocks"])
    assert list(adapter.config.unet_sites) == ["up_blocks.0.resnets.0", "up_blocks.0.resnets.1"]
    assert list(adapter.config.controlnet_sites) == ["mid_block.attentions.0"]
    models.adapter = randomise(adapter.attach(models.unet).attach(models.controlnet))
    assert difference(models.outputs(), models.stock_outputs()) > 1e-3


def test_both_prompts_and_the_residuals_matter(models: Models) -> None:
    with torch.no_grad():
        controls, stock = models.features(models.prepared()), models.features()
        assert difference(controls[-1], stock[-1]) > 1e-3
        assert difference(models.features(models.prepared(models.low_level.flip(1) * 2))[-1], controls[-1]) > 1e-4
        # Not through the skip connections, which residuals alone would do.
        assert difference(models.noise(controls, skips=False), models.noise(None)) > 1e-3
        assert difference(models.noise(controls, skips=False), models.noise(stock, skips=False)) > 1e-4


def test_without_fusion_it_is_pasds() -> None:
    models = Models(fusion=False)
    assert not models.adapter.fuses_semantics
    assert not models.adapter.sites("controlnet")
    assert not list(models.adapter.controlnet.parameters())
    with torch.no_grad():
        controls = models.features()
        assert all(torch.equal(*pair) for pair in zip(models.features(models.prepared()), controls, strict=True))
        assert difference(models.noise(controls, skips=False), models.noise(None)) > 1e-3


def test_parts_of_a_batch_have_their_own_prompts(models: Models) -> None:
    """Two guidance halves of three tiles of two images, each half with its low-level prompts."""
    negative, positive = models.prepared(torch.randn(2, 5, TEXT_DIM)), models.prepared()
    with torch.no_grad():
        together = models.features(negative, positive, copies=6)
        for half, prepared in enumerate((negative, positive)):
            alone = models.features(prepared)
            for one, all_of_them in zip(alone, together, strict=True):
                for tile in range(3):
                    start = 6 * half + 2 * tile
                    torch.testing.assert_close(all_of_them[start : start + 2], one, atol=1e-5, rtol=1e-5)
        noise = models.noise(together, copies=6)
        apart = [models.noise([each[start : start + 2] for each in together]) for start in range(0, 12, 2)]
    torch.testing.assert_close(noise, torch.cat(apart), atol=1e-5, rtol=1e-5)


def test_one_prompt_serves_a_whole_part(models: Models) -> None:
    one, two = models.low_level[:1], models.low_level[:1].repeat(2, 1, 1)
    for first, second in zip(
        models.features(models.prepared(one)), models.features(models.prepared(two)), strict=True
    ):
        torch.testing.assert_close(first, second)


def test_batch_that_does_not_consist_of_the_parts_is_refused(models: Models) -> None:
    prepared = models.prepared()
    with pytest.raises(
        ValueError, match="for 3 equal parts of a batch, but the ControlNet was called with a batch of 2"
    ):
        models.features(prepared, prepared, prepared)
    with pytest.raises(ValueError, match="for 2 images, which does not divide the batch of 1"):
        models.features(prepared, prepared)


def test_low_level_text_of_another_shape_is_refused(models: Models) -> None:
    for shape in ((2, TEXT_DIM), (2, 5, TEXT_DIM + 1)):
        with pytest.raises(
            ValueError, match=r"low-level prompts have shape \[2, .*expected \[batch, tokens, 32\]: give"
        ):
            models.prepared(torch.randn(shape))


def test_residuals_of_another_controlnet_are_refused(models: Models) -> None:
    controls = models.features()
    for wrong in (controls[:1], [feature[:, :-1] for feature in controls]):
        with pytest.raises(ValueError, match=r"`controls` has features .*give all residuals of the ControlNet"):
            models.adapter.set_conditioning(controls=wrong)


def test_hosts_of_another_shape_are_refused(models: Models) -> None:
    for host, message in (
        (tiny_unet(block_out_channels=(16, 16)), "16 channels, but the adapter expects 8"),
        (tiny_unet(up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")), "no such module"),
        (tiny_controlnet(block_out_channels=(16, 16)), "16 channels, but the adapter expects 8"),
    ):
        with pytest.raises(ValueError, match=message):
            models.adapter.attach(host)


def test_keys_and_values_of_the_low_level_prompt_are_computed_once(models: Models) -> None:
    calls = []
    for parts in models.adapter.controlnet.values():
        parts["low_level"].transformer_blocks[0].attn2.to_k.register_forward_hook(lambda *_: calls.append(1))
    prepared = models.prepared()
    for _ in range(3):
        models.features(prepared)
    assert len(calls) == len(models.adapter.config.controlnet_sites)


def test_attach_and_detach_are_exact_inverses(models: Models) -> None:
    models.adapter.detach()

    def traces() -> list[Any]:
        return [
            (
                repr(host),
                list(host.state_dict()),
                {name: id(processor) for name, processor in host.attn_processors.items()},
                {name: sorted(module.__dict__) for name, module in host.named_modules()},
            )
            for host in (models.unet, models.controlnet)
        ]

    before = traces()
    for _ in range(2):
        models.adapter.attach(models.unet).attach(models.controlnet)
        assert all(models.adapter.is_attached(host) for host in (models.unet, models.controlnet))
        assert [list(host.state_dict()) for host in (models.unet, models.controlnet)] == [each[1] for each in before]
        models.outputs()
        models.adapter.detach()
        assert not any(models.adapter.is_attached(host) for host in (models.unet, models.controlnet))
        assert traces() == before


def test_nothing_is_left_of_a_call_that_failed(models: Models) -> None:
    prepared = models.prepared()
    expected = models.features(prepared)
    with models.adapter.conditioning(low_level=[prepared]), pytest.raises(RuntimeError):
        models.controlnet.get_submodule(FUSION_SITE)(torch.randn(2, 8, 8, 8), torch.randn(2, 7, TEXT_DIM + 1))
    assert models.adapter._low_levels
    assert all(torch.equal(*pair) for pair in zip(models.features(prepared), expected, strict=True))
    assert not models.adapter._low_levels


def test_adapters_share_hosts_and_copies_are_attached(models: Models) -> None:
    expected, stock = models.outputs(), models.stock_outputs()
    first, other = models.adapter, randomise(XPSRAdapter.from_hosts(models.unet, models.controlnet)).eval()
    models.adapter = other
    other.attach(models.unet).attach(models.controlnet)
    alone = models.outputs()
    assert difference(alone, expected) > 1e-3
    first.detach()
    assert torch.equal(models.outputs(), alone)
    copied = copy.deepcopy(models.unet)
    assert other.is_attached(copied)
    controls = models.features(models.prepared())
    assert torch.equal(models.noise(controls, unet=copied), models.noise(controls))
    other.detach()
    assert torch.equal(models.stock_outputs(), stock)


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
        torch.compile(host, backend="aot_eager", fullgraph=True) for host in (models.unet, models.controlnet)
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


def test_embedded_condition_image(models: Models) -> None:
    with torch.no_grad():
        prepared = models.prepared()
        embedding = models.controlnet.controlnet_cond_embedding(models.image)
        expected = models.features(prepared)
        assert all(
            torch.equal(*pair) for pair in zip(models.features(prepared, image=embedding), expected, strict=True)
        )


@pytest.mark.parametrize("fusion", [True, False])
def test_it_is_saved_and_loaded(fusion: bool, tmp_path: object) -> None:
    models = Models(fusion=fusion)
    expected = models.outputs()
    models.adapter.save_pretrained(tmp_path)
    models.adapter.detach()
    models.adapter = XPSRAdapter.from_pretrained(tmp_path).eval().attach(models.unet).attach(models.controlnet)
    assert models.adapter.fuses_semantics is fusion
    torch.testing.assert_close(models.outputs(), expected, atol=1e-5, rtol=1e-5)  # weights of a file lie elsewhere
