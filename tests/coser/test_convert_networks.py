"""CoSeR's UNet, ControlNet and attention out of the official checkpoint, with and without a base."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffusers_sr.coser.adapter import CoSeRAdapter
from diffusers_sr.coser.controlnet import LatentControlNetModel
from diffusers_sr.coser.convert import BASE_MIRROR, load_networks
from diffusers_sr.coser.convert_networks import controlnet_config_of, networks_from_official, unet_config_of
from tests.components import STABLE_DIFFUSION_2
from tests.coser.official_files import UNET, assert_equal_weights, changed, without_stock_unet
from tests.coser.official_networks import official_networks, tiny_networks


def test_checkpoint_without_stock_unet_takes_the_bases(official, original, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    checkpoint = without_stock_unet(official / "coser.ckpt", tmp_path)
    networks = load_networks(checkpoint, str(official / "base"))
    assert "The checkpoint has no stock UNet: that of" in caplog.text
    for name in ("unet", "controlnet", "adapter", "vae"):
        assert_equal_weights(networks[name], original[name])


def test_equal_base_is_taken(official, caplog):
    caplog.set_level(logging.INFO)
    load_networks(official / "coser.ckpt", str(official / "base"))
    assert "The checkpoint's UNet equals that of" in caplog.text


def test_other_base_keeps_the_checkpoint_and_says_so(official, original, tmp_path, caplog):
    checkpoint = changed(official / "coser.ckpt", tmp_path, {f"{UNET}out.2.bias": torch.ones(4)})
    unet = load_networks(checkpoint, str(official / "base"))["unet"]
    assert f"is kept: 1 of its {len(unet.state_dict())} tensors differ (conv_out.bias)" in caplog.text
    assert torch.equal(unet.conv_out.bias, torch.ones(4))


def test_weights_keep_their_dtype(official, tmp_path):
    half = {key: tensor.half() for key, tensor in torch.load(official / "coser.ckpt")["state_dict"].items()}
    networks = load_networks(changed(official / "coser.ckpt", tmp_path, half))
    for name in ("unet", "controlnet", "adapter"):
        assert {parameter.dtype for parameter in networks[name].parameters()} == {torch.float16}


@pytest.mark.parametrize("stock", [True, False])
def test_base_with_another_text_encoder(official, original, tmp_path, stock):
    shutil.copytree(official / "base", tmp_path / "base")
    config = type(original["text_encoder"].config)(**{**original["text_encoder"].config.to_dict(), "hidden_size": 64})
    type(original["text_encoder"])(config).save_pretrained(tmp_path / "base" / "text_encoder")
    checkpoint = official / "coser.ckpt" if stock else without_stock_unet(official / "coser.ckpt", tmp_path)
    with pytest.raises(ValueError, match="has 64 channels, but the checkpoint's UNet expects 32"):
        load_networks(checkpoint, tmp_path / "base")


def test_base_that_cannot_be_had(official):
    with pytest.raises(OSError, match=f"'no/base' could not be loaded.*{BASE_MIRROR}"):
        load_networks(official / "coser.ckpt", "no/base")


def test_stock_checkpoint_is_none_of_cosers(official, tmp_path):
    weights = torch.load(official / "coser.ckpt")["state_dict"]
    stock = changed(official / "coser.ckpt", tmp_path, {key: None for key in weights if "_lna" in key})
    with pytest.raises(ValueError, match="is not a CoSeR checkpoint"):
        load_networks(stock)


def test_every_key_of_the_released_size():
    """954 and 274 tensors are those of the official networks, which have no text transformer where only one has."""
    encoder = ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    with torch.device("meta"):
        unet = UNet2DConditionModel(**STABLE_DIFFUSION_2, sample_size=64)
        controlnet = LatentControlNetModel(**STABLE_DIFFUSION_2, down_block_types=encoder, conditioning_channels=4)
        adapter = CoSeRAdapter.from_hosts(unet, controlnet, similarity="scaled", bicubic="torch")
        official_unet, official_controlnet = official_networks(unet, controlnet, adapter)
    assert (len(official_unet), len(official_controlnet)) == (954, 274)
    assert sum("_lna" in key for key in official_unet) == 268
    stock = {key: tensor for key, tensor in official_unet.items() if "_lna" not in key}
    unet_config, controlnet_config = unet_config_of(stock, "it"), controlnet_config_of(official_controlnet, "it")
    converted = networks_from_official(official_unet, official_controlnet, unet_config, controlnet_config, "it")
    for model, expected in zip(converted, (unet, controlnet, adapter), strict=True):
        shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
        assert shapes == {key: tensor.shape for key, tensor in expected.state_dict().items()}
        differing = {
            name: value
            for name, value in expected.config.items()
            if json.dumps(model.config[name]) != json.dumps(value) and not name.startswith("_")
        }
        assert differing == {}


def test_official_names():
    unet, controlnet, adapter = (model.to("meta") for model in tiny_networks())
    official_unet, official_controlnet = official_networks(unet, controlnet, adapter)
    for name in (
        "input_blocks.3.0.op.weight",
        "input_blocks.4.0.skip_connection.weight",
        "output_blocks.2.2.conv.bias",
        "output_blocks.2.1.dubconv_r_lna.weight",
        "output_blocks.5.1.transformer_blocks.0.attn4_ref_lna.to_out.0.bias",
        "output_blocks.5.1.transformer_blocks.0.ff.net.0.proj.weight",
        "middle_block.1.transformer_blocks.0.zero_conv_r_lna.weight",
        "middle_block.2.out_layers.3.bias",
        "time_embed.2.bias",
    ):
        assert name in official_unet, name
    assert official_unet["middle_block.1.transformer_blocks.0.zero_conv_lna.weight"].shape == (128, 128, 1, 1)
    for name in ("zero_convs.5.0.weight", "middle_block_out.0.bias", "hint_zero_conv.weight"):
        assert name in official_controlnet, name
    assert not any(key.startswith("input_blocks.4.1.") for key in official_controlnet)
