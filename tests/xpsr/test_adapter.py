"""XPSR's semantic fusion and pixel attention: what they compute."""

from __future__ import annotations

import pytest
import torch
from diffusers import Transformer2DModel
from diffusers.models.attention_processor import AttnProcessor2_0

from diffusers_sr.xpsr.adapter import XPSRAdapter
from tests.components import TEXT_DIM
from tests.xpsr.adapter_models import FUSION_SITE, Models, difference

PIXEL_SITES = {"up_blocks.0.resnets.0": 3, "up_blocks.0.resnets.1": 2, "up_blocks.1.attentions.0": 1}


@pytest.fixture
def models() -> Models:
    return Models()


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


def test_embedded_condition_image(models: Models) -> None:
    with torch.no_grad():
        prepared = models.prepared()
        embedding = models.controlnet.controlnet_cond_embedding(models.image)
        expected = models.features(prepared)
        assert all(
            torch.equal(*pair) for pair in zip(models.features(prepared, image=embedding), expected, strict=True)
        )


@pytest.mark.parametrize("fusion", ["parallel", "serial"])
def test_other_fusions_are_one_stock_transformer(fusion: str) -> None:
    """Parallel adds what it makes of the transformer's input, serial reads the transformer's output."""
    models = Models(fusion=fusion)
    site = models.controlnet.get_submodule(FUSION_SITE)
    parts = models.adapter.controlnet[FUSION_SITE.replace(".", "__")]
    assert [*parts] == ["low_level"]
    low_level = stock_copy(parts["low_level"], TEXT_DIM)
    x = torch.randn(2, 8, 3, 5)
    with torch.no_grad():
        (high,) = site(x, models.text, return_dict=False)
        (expected,) = low_level(high if fusion == "serial" else x, models.low_level, return_dict=False)
        if fusion == "parallel":
            expected = high + expected - x
        with models.adapter.conditioning(low_level=[models.prepared()]):
            (output,) = site(x, models.text, return_dict=False)
    assert difference(output, high) > 1e-2
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", ["parallel", "serial", "high", "low"])
def test_other_fusions_start_as_the_stock_models(fusion: str) -> None:
    models = Models()
    stock = models.stock_outputs()
    models.adapter.detach()
    models.adapter = XPSRAdapter.from_hosts(models.unet, models.controlnet, fusion).attach(models.unet)
    models.adapter.attach(models.controlnet)
    assert torch.equal(models.outputs(), stock)
    assert models.adapter.fuses_semantics == (fusion in ("parallel", "serial"))
    assert bool(list(models.adapter.controlnet.parameters())) == models.adapter.fuses_semantics


def test_a_configuration_without_a_kind_of_fusion_is_semantic_fusion(models: Models) -> None:
    config = {name: value for name, value in models.adapter.config.items() if name != "fusion"}
    assert XPSRAdapter.from_config(config).state_dict().keys() == models.adapter.state_dict().keys()
    assert XPSRAdapter.from_hosts(models.unet, models.controlnet, fusion=False).config.fusion == "high"
    with pytest.raises(ValueError, match="fusion is 'both': give one of 'sfa', 'parallel', 'serial', 'high', 'low'"):
        XPSRAdapter.from_hosts(models.unet, models.controlnet, "both")
