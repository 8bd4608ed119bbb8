"""CasSR's multiple attention on a stock UNet: what it computes, where, and that it comes off without a trace."""

from __future__ import annotations

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch.nn import functional as F

from diffusers_sr.cassr.adapter import CasSRAdapter, ControlAttention
from tests.cassr.adapter_models import Models, difference, new_models
from tests.components import TEXT_DIM, randomise, tiny_unet

SITES = ("up_blocks.1.attentions.0.transformer_blocks.0", "up_blocks.1.attentions.1.transformer_blocks.0")


@pytest.fixture
def models() -> Models:
    return new_models()


def test_both_control_features_change_the_output_and_cannot_be_exchanged(models: Models) -> None:
    stock = models.call()
    models.adapter.attach(models.unet)
    assert torch.equal(models.call(), stock)
    outputs = [stock]
    for lr, reference in ((1, 2), (2, 1), (3, 2), (1, 3)):
        with models.adapter.conditioning(**models.conditioning(lr, reference)):
            outputs.append(models.call())
    for first in range(len(outputs)):
        for second in range(first):
            assert difference(outputs[first], outputs[second]) > 1e-4
    assert torch.equal(models.call(), stock)


def test_a_block_is_reference_attention_self_attention_lr_attention(models: Models) -> None:
    """Against the block written out: softmax attention by its formula, and every norm and residual in its place."""

    def attend(weights: dict[str, torch.Tensor], hidden: torch.Tensor, context: torch.Tensor, heads: int):
        query, key, value = (
            (tokens @ weights[f"to_{name}.weight"].T).unflatten(-1, (heads, -1)).transpose(1, 2)
            for name, tokens in (("q", hidden), ("k", context), ("v", context))
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        return attended @ weights["to_out.0.weight"].T + weights["to_out.0.bias"]

    def norm(hidden: torch.Tensor, module: torch.nn.LayerNorm) -> torch.Tensor:
        return F.layer_norm(hidden, hidden.shape[-1:], module.weight, module.bias, eps=1e-5)

    def control(new: ControlAttention, hidden: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        grouped = F.group_norm(feature, 4, new.norm_control.weight, new.norm_control.bias, eps=1e-6)
        context = grouped.flatten(2).transpose(1, 2)
        return attend(new.attn.state_dict(), norm(hidden, new.norm_hidden), context, new.attn.heads)

    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for site in SITES:
        models.unet.get_submodule(site).register_forward_hook(
            lambda module, args, output, site=site: seen.update({site: (args[0], output)})
        )
    models.adapter.attach(models.unet)
    conditioning = models.conditioning(lr_scale=0.7, reference_scale=0.4)
    with models.adapter.conditioning(**conditioning):
        models.call()

    assert sorted(seen) == sorted(SITES)
    for (site, (x, output)), index in zip(seen.items(), (1, 0), strict=True):  # of the three features of the encoder
        block = models.unet.get_submodule(site)
        heads = block.attn1.heads
        x1 = x + 0.4 * control(models.attention(site, "reference"), x, conditioning["reference"][index])
        hidden = norm(x1, block.norm1)
        x2 = x1 + attend(block.attn1.state_dict(), hidden, hidden, heads)
        x3 = x2 + 0.7 * control(models.attention(site, "lr"), x2, conditioning["lr"][index])
        x4 = x3 + attend(block.attn2.state_dict(), norm(x3, block.norm2), models.text, heads)
        expected = x4 + block.ff(norm(x4, block.norm3))
        assert difference(x3, x2) > 1e-2 < difference(x1, x)
        torch.testing.assert_close(output, expected, atol=1e-6, rtol=1e-6)


def test_what_is_new_leaves_the_unet_as_it_is() -> None:
    """The residuals are there too: a new second stage adds a ControlNet to stock Stable Diffusion."""
    torch.manual_seed(0)
    unet = tiny_unet().eval()
    controlnet = randomise(ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 8)))
    adapter = CasSRAdapter.from_hosts(unet, controlnet)
    models = Models(unet, controlnet, adapter, torch.randn(1, 4, 8, 8), torch.randn(1, 7, TEXT_DIM))
    conditioning = models.conditioning()
    *down, middle = conditioning["lr"]
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    stock, controlled = models.call(), models.call(**residuals)
    assert difference(stock, controlled) > 1e-2
    adapter.attach(unet)
    with adapter.conditioning(**conditioning):
        assert torch.equal(models.call(), stock)
        assert torch.equal(models.call(**residuals), controlled)


def test_what_is_new_starts_from_the_self_attention() -> None:
    unet = tiny_unet(block_out_channels=(8, 16), up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
    adapter = CasSRAdapter.from_hosts(unet, ControlNetModel.from_unet(unet))
    sites = {
        site: (options["channels"], options["control_channels"]) for site, options in adapter.sites("unet").items()
    }
    assert (16, 16) in sites.values() and (16, 8) in sites.values()  # the ControlNet may have other channels
    for site, (channels, control_channels) in sites.items():
        if site.endswith("attn1"):
            continue
        block = unet.get_submodule(site)
        for new in adapter.unet[site.replace(".", "__")].values():
            fits = channels == control_channels
            assert torch.equal(new.norm_hidden.weight, block.norm1.weight)
            assert torch.equal(new.attn.to_q.weight, block.attn1.to_q.weight)
            for name in ("to_k", "to_v"):
                own, stock = getattr(new.attn, name).weight, getattr(block.attn1, name).weight
                assert own.shape == (channels, control_channels)
                assert torch.equal(own, stock) if fits else own.abs().max() > 0
            assert not new.attn.to_out[0].weight.any() and not new.attn.to_out[0].bias.any()


def test_one_of_the_two_can_be_left_out(models: Models) -> None:
    models.adapter.attach(models.unet)
    stock, given = models.call(), models.conditioning()
    outputs = {}
    for name, other in (("lr", "reference"), ("reference", "lr")):
        with models.adapter.conditioning(**{name: given[name]}):
            outputs[name] = models.call()
        with models.adapter.conditioning(**given, **{f"{other}_scale": 0}):
            assert torch.equal(models.call(), outputs[name])
        assert difference(outputs[name], stock) > 1e-3
    assert difference(*outputs.values()) > 1e-3
    with models.adapter.conditioning(**given, lr_scale=0, reference_scale=0):
        assert torch.equal(models.call(), stock)


def test_attach_and_detach_are_exact_inverses(models: Models) -> None:
    stock, before, text = models.call(), dict(models.unet.state_dict()), repr(models.unet)
    processors = models.unet.attn_processors
    attributes = {name: sorted(module.__dict__) for name, module in models.unet.named_modules()}
    for _ in range(2):
        models.adapter.attach(models.unet)
        assert models.adapter.is_attached(models.unet)
        assert models.unet.state_dict().keys() == before.keys()
        models.adapter.detach()
        assert not models.adapter.is_attached(models.unet)
        assert repr(models.unet) == text
        assert models.unet.attn_processors == processors
        assert {name: sorted(module.__dict__) for name, module in models.unet.named_modules()} == attributes
        with models.adapter.conditioning(**models.conditioning()):
            assert torch.equal(models.call(), stock)


def test_sites_of_stable_diffusion_1() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8)
        adapter = CasSRAdapter.from_hosts(unet, ControlNetModel.from_unet(unet, load_weights_from_unet=False))
    read = {
        site: (options["channels"], options["control_channels"], options["control_index"])
        for site, options in adapter.config.unet_sites.items()
    }
    assert read == {
        f"up_blocks.{block}.attentions.{layer}.transformer_blocks.0": (channels, control, index)
        for block, layer, channels, control, index in (
            *((1, 0, 1280, 1280, 8), (1, 1, 1280, 1280, 7), (1, 2, 1280, 640, 6)),
            *((2, 0, 640, 640, 5), (2, 1, 640, 640, 4), (2, 2, 640, 320, 3)),
            *((3, 0, 320, 320, 2), (3, 1, 320, 320, 1), (3, 2, 320, 320, 0)),
        )
    }
    assert {options["num_attention_heads"] for options in adapter.config.unet_sites.values()} == {8}
    # The projections' 47.51 million, and the norms.
    assert sum(parameter.numel() for parameter in adapter.parameters()) / 1e6 == pytest.approx(47.58, abs=0.005)


def test_conditioning_of_one_serves_several(models: Models) -> None:
    models.adapter.attach(models.unet)
    with models.adapter.conditioning(**models.conditioning()):
        one, three = models.call(), models.call(copies=3)
    torch.testing.assert_close(three, one.repeat(3, 1, 1, 1), atol=1e-5, rtol=0)


def test_features_of_another_controlnet_are_refused(models: Models) -> None:
    features = models.conditioning()["lr"]
    for name in ("lr", "reference"):
        for wrong in (features[:1], [feature[:, :-1] for feature in features]):
            with pytest.raises(ValueError, match=f"`{name}` has features .*give all residuals of the ControlNet"):
                models.adapter.set_conditioning(**{name: wrong})


def test_a_unet_of_another_shape_is_refused(models: Models) -> None:
    other = tiny_unet(block_out_channels=(16, 16))
    with pytest.raises(ValueError, match="16 channels, but the adapter expects 8"):
        models.adapter.attach(other)
    with pytest.raises(ValueError, match="no such module"):
        models.adapter.attach(tiny_unet(up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")))


def test_without_multiple_attention_there_are_no_weights(models: Models) -> None:
    """The UNet gets the residuals alone, as from a ControlNet."""
    adapter = CasSRAdapter.from_hosts(models.unet, models.controlnet, multiple_attention=False)
    assert not list(adapter.parameters())
    stock = models.call()
    adapter.attach(models.unet)
    with adapter.conditioning(**models.conditioning()):
        assert torch.equal(models.call(), stock)
