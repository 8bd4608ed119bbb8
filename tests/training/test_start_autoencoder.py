"""start_autoencoder.py: an autoencoder that begins as principal components."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from PIL import Image
from skimage import data

from diffusers_sr.evaluation.autoencoder import reconstruct
from diffusers_sr.evaluation.color import color_gains
from diffusers_sr.evaluation.detail import stripe_gains
from tests.training.runs import script


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(data.astronaut()[:259, :258]).save(folder / "a.png")
    Image.fromarray(data.coffee()[:260, :260]).save(folder / "b.png")
    return folder


@pytest.fixture(scope="module")
def vae(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> AutoencoderDC:
    folder = tmp_path_factory.mktemp("vae")
    script("start_autoencoder").main(["--train_data_dir", str(photos), "--output_dir", str(folder)])
    model: AutoencoderDC = AutoencoderDC.from_pretrained(folder)
    return model


def test_components_of_blocks_of_one_color(tmp_path: Path) -> None:
    """Of 1 and -1 in red, 0.2 and -0.2 in blue, and no green: the blocks' 16 reds have a variance of 1 together."""
    pixels = np.full((8, 16, 3), 127.5)
    pixels[:, :, 0] = np.where(np.arange(16) < 8, 255, 0)
    Image.fromarray(pixels.round().astype(np.uint8)).save(tmp_path / "photo.png")
    variances, directions = script("start_autoencoder").principal_components([tmp_path / "photo.png"])
    assert variances[0].item() == pytest.approx(16, rel=0.01)
    assert variances[1:].max() < 1e-2
    torch.testing.assert_close(directions[:16, 0].abs(), torch.full((16,), 0.25), atol=1e-2, rtol=0)


def test_it_is_the_projection_on_the_components(photos: Path, vae: AutoencoderDC) -> None:
    """Within the percent by which colours change the norm of a pixel's channels."""
    image = torch.from_numpy(data.coffee()[100:196, 200:296].copy()).permute(2, 0, 1)[None].float() / 255
    _, directions = script("start_autoencoder").principal_components(sorted(photos.glob("*.png")))
    kept = directions[:, :16]
    blocks = F.pixel_unshuffle(2 * image - 1, 4)
    projected = F.pixel_shuffle(torch.einsum("ij,bjhw->bihw", kept @ kept.T, blocks), 4) / 2 + 0.5
    assert (projected - image).abs().mean() < 0.02
    torch.testing.assert_close(reconstruct(vae, image), projected.clamp(0, 1), atol=1e-2, rtol=0)


def test_it_keeps_every_color_before_it_is_trained(vae: AutoencoderDC) -> None:
    gains = color_gains(lambda image: reconstruct(vae, image), levels=3, side=16)
    assert all(0.97 < gain < 1.03 for gain in gains.values())


def test_it_keeps_stripes_that_repeat_with_its_latents(vae: AutoencoderDC) -> None:
    """An autoencoder that enlarges by repeating pixels has a gain of 0 at two and four pixels."""
    gains = stripe_gains(lambda image: reconstruct(vae, image), (2, 4), side=64)
    assert gains[4] > 0.95 and gains[2] > 0.5


def test_pipelines_find_its_factor(vae: AutoencoderDC) -> None:
    assert vae.config.block_out_channels == [16, 16, 64]
    assert vae.spatial_compression_ratio == 4


def test_its_latents_have_unit_scale(photos: Path, vae: AutoencoderDC) -> None:
    images = [torch.from_numpy(np.asarray(Image.open(path)).copy()) for path in photos.glob("*.png")]
    with torch.no_grad():
        latents = [vae.encode(image[:256, :256].permute(2, 0, 1)[None] / 127.5 - 1).latent for image in images]
    mean_square = torch.cat(latents).square().mean().item() * vae.config.scaling_factor**2
    assert mean_square == pytest.approx(1, rel=0.05)


def test_every_weight_can_learn(vae: AutoencoderDC) -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (vae.decode(vae.encode(image).latent).sample - image).square().mean().backward()
    without = {
        name for name, parameter in vae.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    # A block's convolutions wait for the weight of its norm, which is zero; that weight does not wait.
    assert all(".conv1." in name or ".conv2." in name for name in without)
    assert not any(name.endswith("norm.weight") for name in without)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--channels", "12", "a multiple of 4, and at least 16"),
        ("--channels", "18", "a multiple of 4, and at least 16"),
        ("--latent_channels", "49", "has to divide 64, four times --channels, and be at most 48"),
        ("--latent_channels", "12", "has to divide 64"),
        ("--latent_channels", "0", "has to divide 64"),
    ],
)
def test_sizes_that_do_not_fit(
    photos: Path, tmp_path: Path, option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--train_data_dir", str(photos), "--output_dir", str(tmp_path), option, value]
    with pytest.raises(SystemExit):
        script("start_autoencoder").main(argv)
    error = " ".join(capsys.readouterr().err.split())
    assert f"{option} {value}: it has to" in error and message in error
