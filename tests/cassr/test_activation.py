"""SCEdit's tuners on a stock UNet: what they compute, where, and that they come off without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.image.tiling import crop_tiles, tile_windows
from tests.cassr.activation_models import HINTS, Models, difference


@pytest.fixture
def models() -> Models:
    return Models()


@torch.no_grad()
def explicit(models: Models, scale: float, residuals: list[torch.Tensor]) -> torch.Tensor:
    """The whole UNet, block by block, with skip connections edited in between as scepter's code does."""
    unet, adapter = models.unet, models.adapter
    timesteps = torch.full((len(models.sample),), 500)
    embedding = unet.time_embedding(unet.time_proj(timesteps))
    hidden = unet.conv_in(models.sample)
    skips = [hidden]
    for block in unet.down_blocks:
        text = {"encoder_hidden_states": models.text} if hasattr(block, "attentions") else {}
        hidden, outputs = block(hidden, embedding, **text)
        skips += outputs
    hidden = unet.mid_block(hidden, embedding, encoder_hidden_states=models.text)
    skips = [skip + residual for skip, residual in zip(skips, residuals, strict=True)]

    hint = models.image
    convs = [layer for layer in adapter.hint_embedding if isinstance(layer, nn.Conv2d)]
    for number, conv in enumerate(convs):
        hint = F.conv2d(hint if number == 0 else F.silu(hint), conv.weight, conv.bias, conv.stride, padding=1)
    for number, (conv, tuner) in enumerate(zip(adapter.dense_hints, adapter.tuners, strict=True)):
        hint = F.conv2d(F.silu(hint), conv.weight, conv.bias, stride=2 if number == 2 else 1, padding=1)
        change = F.conv2d(skips[number] + hint, tuner.linear_1.weight[..., None, None], tuner.linear_1.bias)
        change = F.conv2d(F.gelu(change), tuner.linear_2.weight[..., None, None], tuner.linear_2.bias)
        skips[number] = skips[number] + scale * (hint + change)

    for block in unet.up_blocks:
        text = {"encoder_hidden_states": models.text} if hasattr(block, "attentions") else {}
        taken, skips = tuple(skips[-2:]), skips[:-2]
        hidden = block(hidden_states=hidden, res_hidden_states_tuple=taken, temb=embedding, **text)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))


@pytest.mark.parametrize("freeu", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_equals_the_networks_run_block_by_block(scale: float, freeu: bool) -> None:
    models = Models(batch=2)
    if freeu:
        models.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    shapes = [(8, 8, 8), (8, 8, 8), (8, 4, 4), (16, 4, 4)]
    residuals = [torch.randn(2, *shape) for shape in shapes]
    zero = torch.zeros(1)  # what a ControlNet would add in the middle
    with models.adapter.conditioning(hints=models.embed(), scale=scale):
        edited = models.call(down_block_additional_residuals=residuals, mid_block_additional_residual=zero)
    models.adapter.detach()
    expected = explicit(models, scale, residuals)
    stock = models.call(down_block_additional_residuals=residuals, mid_block_additional_residual=zero)
    assert difference(edited, stock) > 1e-2
    torch.testing.assert_close(edited, expected, atol=1e-5, rtol=1e-5)


def test_image_and_scale_change_the_output(models: Models) -> None:
    outputs = [
        models.call(),
        models.conditioned(),
        models.conditioned(torch.rand_like(models.image)),
        models.conditioned(scale=0.5),
    ]
    for first in range(4):
        for second in range(first):
            assert difference(outputs[first], outputs[second]) > 1e-3, (first, second)


def test_every_hint_is_used(models: Models) -> None:
    hints, expected = models.embed(), models.conditioned()
    for number in range(len(hints)):
        changed = [hint + 0.1 * (number == index) for index, hint in enumerate(hints)]
        with models.adapter.conditioning(hints=changed):
            assert difference(models.call(), expected) > 1e-3, number


def test_without_hints_or_with_scale_0_attached_is_stock() -> None:
    models = Models(attach=False)
    stock = models.call()
    models.adapter.attach(models.unet)
    assert torch.equal(models.call(), stock)
    assert difference(models.conditioned(), stock) > 1e-2
    assert torch.equal(models.conditioned(scale=0.0), stock)
    assert torch.equal(models.call(), stock)


def test_new_adapter_starts_as_the_stock_model(models: Models) -> None:
    stock = models.call()
    models.adapter.detach()
    models.adapter = SCEditAdapter.from_host(models.unet, **HINTS).attach(models.unet)
    assert torch.equal(models.conditioned(), stock)
    assert all(not hint.any() for hint in models.embed())
    assert all(tuner.linear_1.weight.any() for tuner in models.adapter.tuners)


def test_chain_of_zeros_learns(models: Models) -> None:
    """The biases first, then one convolution after the other."""
    adapter = SCEditAdapter.from_host(models.unet, **HINTS).attach(models.unet)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for _ in range(6):
        adapter.set_conditioning(hints=adapter.embed(models.image))
        optimizer.zero_grad()
        models.unet(models.sample, 500, models.text).sample.square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in adapter.parameters())
    assert all(conv.weight.any() for conv in adapter.dense_hints)


def test_attach_and_detach_are_exact_inverses(models: Models) -> None:
    expected = models.conditioned()
    models.adapter.detach()
    stock, keys, text = models.call(), models.unet.state_dict().keys(), repr(models.unet)
    attributes = {name: sorted(module.__dict__) for name, module in models.unet.named_modules()}
    processors = models.unet.attn_processors
    for _ in range(2):
        models.adapter.attach(models.unet)
        assert models.adapter.is_attached(models.unet)
        assert models.unet.state_dict().keys() == keys
        assert torch.equal(models.conditioned(), expected)
        models.adapter.detach()
        assert not models.adapter.is_attached(models.unet)
        assert repr(models.unet) == text
        assert models.unet.attn_processors == processors
        assert {name: sorted(module.__dict__) for name, module in models.unet.named_modules()} == attributes
        assert torch.equal(models.conditioned(), stock)


@torch.no_grad()
def test_skips_may_be_positional(models: Models) -> None:
    block = models.unet.up_blocks[0]
    hidden, skips = torch.randn(1, 16, 4, 4), (torch.randn(1, 8, 4, 4), torch.randn(1, 16, 4, 4))
    temb = torch.randn(1, 32)
    stock = block(hidden, skips, temb)
    with models.adapter.conditioning(hints=models.embed()):
        by_keyword = block(hidden_states=hidden, res_hidden_states_tuple=skips, temb=temb)
        assert torch.equal(block(hidden, skips, temb), by_keyword)
    assert difference(by_keyword, stock) > 1e-2


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (9, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_latents_of_any_size(size: tuple[int, int], kernel: int) -> None:
    models = Models(size=size, dense_hint_kernel=kernel)
    stock, edited = models.call(), models.conditioned()
    assert edited.shape == (1, 4, *size)
    assert difference(edited, stock) > 1e-3
    half = tuple((side + 1) // 2 for side in size)
    assert [hint.shape for hint in models.embed()] == [
        (1, 8, *size),
        (1, 8, *size),
        (1, 8, *half),
        (1, 16, *half),
    ]


def test_halves_of_the_guidance_share_the_hints() -> None:
    models = Models(batch=2)
    sample = torch.randn(6, 4, 8, 8)
    with models.adapter.conditioning(hints=models.embed()):
        together = models.call(sample=sample)
    apart = []
    for number, latents in enumerate(sample.split(1)):
        with models.adapter.conditioning(hints=models.embed(models.image[[number % 2]])):
            apart.append(models.call(sample=latents))
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-5)


def test_tiles_are_embedded_by_themselves() -> None:
    models = Models(size=(8, 12))
    windows = tile_windows(8, 12, 8, 4)
    assert len(windows) == 2
    hints = models.embed(crop_tiles(models.image, windows, 8))
    with models.adapter.conditioning(hints=hints):
        together = models.call(sample=crop_tiles(models.sample, windows))
    apart = []
    for window in windows:
        with models.adapter.conditioning(hints=models.embed(window.crop(models.image, 8))):
            apart.append(models.call(sample=window.crop(models.sample)))
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-5)
