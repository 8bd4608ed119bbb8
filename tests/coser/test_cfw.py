"""CFW: a stock autoencoder decodes with features of the image, and never knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

from diffusers_sr.coser.cfw import ControllableFeatureWrapping
from diffusers_sr.coser.cfw_bands import restore_in_bands
from tests.components import randomise
from tests.coser.cfw_models import Models, difference, new_vae


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.mark.parametrize("channels", [(8, 16, 24, 32), (8, 16, 24)], ids=["4 levels", "3 levels"])
def test_fuses_behind_the_residual_blocks_of_two_levels(channels: tuple[int, ...]) -> None:
    """The autoencoder's own modules, one after another, with the fusion between them."""
    models = Models(channels)
    vae, cfw = models.vae, models.cfw
    with torch.no_grad():
        hidden_states, features = vae.encoder.conv_in(models.image), {}
        for level, block in enumerate(vae.encoder.down_blocks):
            for resnet in block.resnets:
                hidden_states = resnet(hidden_states, None)
            features[level] = hidden_states
            for downsampler in block.downsamplers or []:
                hidden_states = downsampler(hidden_states)
        hidden_states = vae.decoder.mid_block(vae.decoder.conv_in(vae.post_quant_conv(models.latents)))
        for level, block in zip(reversed(range(len(channels))), vae.decoder.up_blocks, strict=True):
            for resnet in block.resnets:
                hidden_states = resnet(hidden_states, None)
            if level in (1, 2):
                layer = cfw.fusion_layers[str(level)]
                hidden_states = hidden_states + 0.3 * layer(features[level], hidden_states)
            for upsampler in block.upsamplers or []:
                hidden_states = upsampler(hidden_states)
        expected = vae.decoder.conv_out(vae.decoder.conv_act(vae.decoder.conv_norm_out(hidden_states)))
        assert [feature.shape[1] for feature in models.features()] == [24, 16]
        assert all(torch.equal(*pair) for pair in zip(models.features(), (features[2], features[1]), strict=True))
        assert torch.equal(models.decode(0.3), expected)


def test_the_posterior_is_the_stock_one(models: Models) -> None:
    with torch.no_grad():
        posterior, _ = models.cfw.encode(models.vae, models.image)
        assert torch.equal(posterior.parameters, models.vae.encode(models.image).latent_dist.parameters)


def test_weight_and_features_matter(models: Models) -> None:
    stock, half, full = models.stock(), models.decode(0.5), models.decode(1)
    assert 0.01 < difference(half, stock) < difference(full, stock)
    for index in range(2):
        features = list(models.features())
        features[index] = models.features(-models.image)[index]
        with torch.no_grad():
            assert difference(models.cfw.decode(models.vae, models.latents, features, 0.5), half) > 1e-3, index


@pytest.mark.parametrize("weight", [0, 0.0, np.float32(0)])
def test_weight_zero_is_the_stock_decoder(models: Models, weight: float) -> None:
    assert torch.equal(models.decode(weight), models.stock())


def test_new_fusion_layers_decode_as_the_stock_decoder_and_learn(models: Models) -> None:
    models.cfw = ControllableFeatureWrapping.from_vae(models.vae, num_rrdbs=1, growth_channels=4)
    assert torch.equal(models.decode(1), models.stock())
    features, target = models.features(), models.image
    optimizer = torch.optim.Adam(models.cfw.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = (models.cfw.decode(models.vae, models.latents, features, 1) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in models.cfw.parameters())


def test_gradients_reach_every_fusion_weight_and_the_latents(models: Models) -> None:
    models.vae.requires_grad_(False)
    latents = models.latents.requires_grad_()
    models.cfw.decode(models.vae, latents, models.features(), 0.5).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in models.cfw.parameters())
    assert latents.grad is not None and latents.grad.any()
    assert all(parameter.grad is None for parameter in models.vae.parameters())


@torch.no_grad()
def test_in_bands_it_is_the_whole(models: Models) -> None:
    """Two results of each image, in bands of few rows; the fusion layers' own norms and reach count too."""
    vae, cfw = models.vae.double(), models.cfw.double()
    images, latents = torch.rand(2, 3, 72, 40).double() * 2 - 1, torch.randn(4, 4, 9, 5).double()
    features = [feature.repeat_interleave(2, dim=0) for feature in cfw.encode(vae, images)[1]]
    expected = cfw.decode(vae, latents, features, 0.7)
    assert difference(expected, vae.decode(latents).sample) > 0.01
    for tile_size in (8, 32):
        restored = restore_in_bands(cfw, vae, images, latents, 0.7, tile_size)
        assert (restored - expected).abs().max() < 1e-12


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 56), (40, 24)])
def test_every_size_that_is_a_multiple_of_8(models: Models, height: int, width: int) -> None:
    models.image, models.latents = torch.rand(1, 3, height, width), torch.randn(1, 4, height // 8, width // 8)
    assert models.decode().shape == models.image.shape
    assert difference(models.decode(), models.stock()) > 0.01


@pytest.mark.parametrize("weight", [-0.1, 1.01, float("nan"), "0.5", None])
def test_weights_that_are_not_allowed(models: Models, weight: Any) -> None:
    with pytest.raises(ValueError, match=r"weight=.*, expected a number from 0"):
        models.cfw.decode(models.vae, models.latents, models.features(), weight)


@pytest.mark.parametrize("levels", [(4,), (1, -1)])
def test_levels_the_autoencoder_lacks(models: Models, levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"has no level (4|-1): choose from \[0, 1, 2, 3\]"):
        ControllableFeatureWrapping.from_vae(models.vae, levels)


@pytest.mark.parametrize("levels", [(2, 2), (2,), (2, 1, 0)])
def test_levels_that_do_not_match_channels(levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected each level once, and one number of channels for each"):
        ControllableFeatureWrapping(levels, (32, 32))


def test_any_levels_can_be_fused(models: Models) -> None:
    models.cfw = randomise(ControllableFeatureWrapping.from_vae(models.vae, (0, 3), 1, 4))
    assert [list(feature.shape[1:]) for feature in models.features()] == [[8, 24, 40], [32, 3, 5]]
    assert difference(models.decode(), models.stock()) > 0.01


@pytest.mark.parametrize("channels", [(8, 16, 32, 32), (8, 16)])
def test_another_autoencoder_than_it_was_made_for(models: Models, channels: tuple[int, ...]) -> None:
    models.vae = new_vae(channels)
    for call in (models.features, lambda: models.cfw.decode(models.vae, models.latents, (), 0)):
        with pytest.raises(ValueError, match="expect 24 channels at level 2 of the autoencoder, which has"):
            call()


def test_another_kind_of_autoencoder(models: Models) -> None:
    models.vae = AutoencoderTiny()
    with pytest.raises(TypeError, match="`vae` is an AutoencoderTiny, expected an AutoencoderKL"):
        models.features()
    with pytest.raises(TypeError, match="`vae` is an AutoencoderTiny, expected an AutoencoderKL"):
        ControllableFeatureWrapping.from_vae(models.vae)


def test_images_that_cannot_be_decoded_to(models: Models) -> None:
    with pytest.raises(ValueError, match="20×24 pixels, expected multiples of 8"):
        models.features(torch.zeros(1, 3, 24, 20))


def test_features_that_do_not_fit(models: Models) -> None:
    features = models.features()
    for wrong, message in (
        (features[:1], r"expected one for each of the levels \[2, 1\]"),
        ([feature[:1] for feature in features], "with as many images as there are latents"),
        (models.features(models.image[..., :-8]), r"the features are \[2, 24, 6, 8\], but the decoder's are"),
        (features[::-1], "give those of an image, or a tile, as large as the decoded latents"),
    ):
        with pytest.raises(ValueError, match=message):
            models.cfw.decode(models.vae, models.latents, wrong, 0.5)
