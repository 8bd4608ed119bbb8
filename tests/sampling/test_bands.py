"""An autoencoder that works in bands gives what it gives for the whole image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

import diffusers_sr
from diffusers_sr.sampling.banded_autoencoder import decode_in_bands, encode_in_bands
from diffusers_sr.sampling.bands import Bands
from tests.components import randomise, tiny_vae

CPU = torch.device("cpu")
VAE = Path(diffusers_sr.__file__).parent / "models" / "base-small" / "vae"


KINDS: dict[str, dict[str, Any]] = {
    "Stable Diffusion's": {},
    "with attention at each level": {
        "down_block_types": ("AttnDownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
    },
    "without attention": {"mid_block_add_attention": False},
    "without quantisation": {"use_quant_conv": False, "use_post_quant_conv": False},
}


def autoencoder(kind: str) -> AutoencoderKL:
    """A tiny autoencoder whose parts are of one kind, in float64."""
    torch.manual_seed(0)
    options = {
        "block_out_channels": (8, 12, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 2,
        "norm_num_groups": 4,
    }
    return randomise(AutoencoderKL(**options | KINDS[kind]).double().eval())


def moments(vae, image):
    return vae.encode(image).latent_dist.parameters


def decoded(vae, latents):
    return vae.decode(latents).sample


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_equal_to_the_whole(kind):
    vae = autoencoder(kind)
    # Sides of 17 and 14 latents: an odd number of rows, and a last band of another height.
    image, latents = torch.rand(2, 3, 68, 56, dtype=torch.float64) * 2 - 1, torch.randn(2, 4, 17, 14).double()
    # The last rows depend on the first, and the other way round, which tiles that know nothing of each other miss.
    assert (moments(vae, image)[..., -1, :] - moments(vae, image[..., 20:, :])[..., -1, :]).abs().max() > 1e-4
    for tile_size in (4, 16, 32):
        assert (encode_in_bands(vae, image, tile_size) - moments(vae, image)).abs().max() < 1e-12
        assert (decode_in_bands(vae, latents, tile_size) - decoded(vae, latents)).abs().max() < 1e-12


@torch.no_grad()
def test_statistics_are_those_of_the_whole_map():
    # Groups of one channel: 0, 0, …, 6 has mean 1.5 and variance 6.75, and 1, 1, … has no variance.
    states = torch.ones(1, 2, 8, 3)
    states[:, 0] = torch.tensor([0.0, 0, 0, 0, 0, 0, 6, 6])[:, None]
    norm, identity = nn.GroupNorm(2, 2, eps=0.25), nn.Conv2d(2, 2, 1, bias=False)
    norm.weight.data, norm.bias.data = torch.tensor([2.0, 1.0]), torch.tensor([10.0, 20.0])
    identity.weight.data = torch.eye(2)[..., None, None]
    result = Bands(2 * 3 * 2, CPU).run([norm, identity], states)
    # 10 + 2 * (0 - 1.5) / sqrt(6.75 + 0.25), and the same of 6
    expected = torch.tensor([10 - 3 / 7**0.5, 10 + 9 / 7**0.5])
    torch.testing.assert_close(result[0, 0, :, 0], expected[[0, 0, 0, 0, 0, 0, 1, 1]])
    torch.testing.assert_close(result[0, 1], torch.full((8, 3), 20.0))


@torch.no_grad()
def test_a_band_has_the_rows_it_may_have():
    heights = []
    convolution = nn.Conv2d(2, 4, 3, padding=1)
    convolution.register_forward_hook(lambda _, args, __: heights.append(args[0].shape[2]))
    # 100 values of 4 channels and 5 columns are 5 rows, made even, and a row (made two) more where there is one.
    Bands(100, CPU).run([convolution], torch.rand(1, 2, 11, 5))
    assert heights == [4 + 2, 4 + 4, 3 + 2]


@torch.no_grad()
def test_only_what_may_be_overwritten_is():
    convolution, states = nn.Conv2d(2, 2, 3, padding=1), torch.rand(1, 2, 12, 5)
    before, expected = states.clone(), convolution(states)
    bands = Bands(20, CPU)
    torch.testing.assert_close(bands.run([convolution], states), expected)
    assert torch.equal(states, before)
    assert bands.run([convolution], states, overwrite=True) is states
    torch.testing.assert_close(states, expected)


@torch.no_grad()
def test_of_a_trained_autoencoder_more_than_60_dB():
    vae = AutoencoderKL.from_pretrained(VAE)
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 9), (96, 72), mode="bicubic").clamp(0, 1)
    latents = vae.encode(2 * image - 1).latent_dist.mode()
    whole = decoded(vae, latents)
    for tile_size in (8, 32, 64):
        error = (decode_in_bands(vae, latents, tile_size) - whole).square().mean()
        assert 10 * torch.log10(2**2 / error) > 110


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_in_half_precision(dtype):
    vae = tiny_vae()
    latents = torch.randn(1, 4, 9, 7)
    exact = decoded(vae, latents)
    vae.to(dtype)
    whole_error = (decoded(vae, latents.to(dtype)) - exact).abs().mean()
    assert (decode_in_bands(vae, latents.to(dtype), 16) - exact).abs().mean() < 1.5 * whole_error


def offload_sequentially(vae):
    accelerate.cpu_offload(vae, CPU)


def offload_as_a_whole(vae):
    accelerate.cpu_offload_with_hook(vae, CPU)


def offload_in_groups(vae):
    apply_group_offloading(vae, onload_device="cpu", offload_device="cpu", offload_type="leaf_level")


@pytest.mark.parametrize("offload", [offload_sequentially, offload_as_a_whole, offload_in_groups])
@torch.no_grad()
def test_with_offloading(offload):
    vae, image = tiny_vae(), torch.rand(1, 3, 72, 56)
    expected = moments(vae, image)
    offload(vae)
    for _ in range(2):
        torch.testing.assert_close(encode_in_bands(vae, image, 16), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_with_lora():
    vae, image = tiny_vae().double(), torch.rand(1, 3, 72, 56, dtype=torch.float64)
    before = moments(vae, image)
    targets = ["conv1", "conv_in", "to_k"]
    inject_adapter_in_model(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), vae.encoder)
    vae.double()
    assert (moments(vae, image) - before).abs().max() > 1e-3
    assert (encode_in_bands(vae, image, 16) - moments(vae, image)).abs().max() < 1e-12
