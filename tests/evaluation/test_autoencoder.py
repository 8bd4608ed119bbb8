from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderTiny

from diffusers_sr.evaluation.autoencoder import reconstruct
from diffusers_sr.evaluation.color import color_gains
from tests.components import tiny_vae


def tiny() -> AutoencoderTiny:
    widths, blocks = (8, 8, 8), (1, 1, 1)
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    )


def dc() -> AutoencoderDC:
    widths, scales = (8, 8, 32), ((), (), ())
    vae = AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(0, 1, 1),
        decoder_layers_per_block=(0, 1, 1),
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
    )
    vae.register_to_config(block_out_channels=widths)
    return vae


@pytest.mark.parametrize("build", [tiny_vae, tiny, dc])
def test_every_kind_of_autoencoder(build: Any) -> None:
    torch.manual_seed(0)
    vae = build()
    image = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded = vae.encode(2 * image - 1)
        latents = {"AutoencoderKL": lambda: encoded.latent_dist.mean, "AutoencoderTiny": lambda: encoded.latents}
        latent = latents.get(type(vae).__name__, lambda: encoded.latent)()
        expected = (vae.decode(latent).sample + 1) / 2
    torch.testing.assert_close(reconstruct(vae, image), expected.clamp(0, 1))


def test_in_half_precision() -> None:
    torch.manual_seed(0)
    vae = tiny_vae()
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = reconstruct(vae, image)
    half = reconstruct(vae.to(torch.bfloat16), image)
    assert half.dtype == torch.float32
    assert (half - whole).abs().mean() < 0.01


def test_an_autoencoder_that_was_not_trained_has_no_color() -> None:
    torch.manual_seed(0)
    gains = color_gains(lambda image: reconstruct(dc(), image), levels=2, side=16)
    assert all(abs(gain) < 0.5 for gain in gains.values())
