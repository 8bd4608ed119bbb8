"""Where XPSR's attention is put, what it starts from, and that it comes off without a trace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from diffusers_sr.xpsr.adapter import XPSRAdapter
from tests.components import TEXT_DIM, randomise, tiny_controlnet, tiny_unet
from tests.xpsr.adapter_models import FUSION_SITE, Models, difference


@pytest.fixture
def models() -> Models:
    return Models()


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


def test_hosts_of_another_shape_are_refused(models: Models) -> None:
    for host, message in (
        (tiny_unet(block_out_channels=(16, 16)), "16 channels, but the adapter expects 8"),
        (tiny_unet(up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")), "no such module"),
        (tiny_controlnet(block_out_channels=(16, 16)), "16 channels, but the adapter expects 8"),
    ):
        with pytest.raises(ValueError, match=message):
            models.adapter.attach(host)


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
