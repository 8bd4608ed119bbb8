"""train_autoencoder.py: what it starts from; and evaluate_autoencoder.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline
from PIL import Image

from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.training.autoencoders import posterior
from tests.components import tiny_image, tiny_vae
from tests.evaluation.test_autoencoder import dc, tiny
from tests.training.runs import reset_accelerate, script


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        tiny_image(48, 40 + index).save(folder / f"{index}.png")
    return folder


def train(photos: Path, vae: AutoencoderKL | AutoencoderDC | AutoencoderTiny, steps: int, *options: str) -> Path:
    reset_accelerate()
    vae.save_pretrained(photos.parent / "start")
    output_dir = photos.parent / "result"
    run = ["--max_train_steps", str(steps), "--train_batch_size", "2", "--resolution", "32", *options]
    script("train_autoencoder").main(
        ["--train_data_dir", str(photos), "--vae", str(photos.parent / "start"), "--output_dir", str(output_dir), *run]
    )
    return output_dir


@pytest.mark.parametrize("build", [tiny_vae, dc])
def test_a_given_autoencoder_is_trained_further(
    photos: Path, build: type[AutoencoderKL] | type[AutoencoderDC]
) -> None:
    torch.manual_seed(0)
    start = build()
    result = type(start).from_pretrained(
        train(photos, start, 1, "--learning_rate", "1e-6", "--color_jitter", "0.5", "--latent_noise", "0.2")
    )
    moved = {
        name: (tensor - start.state_dict()[name]).abs().max().item() for name, tensor in result.state_dict().items()
    }
    # Adam's first step is the learning rate, and a weight that has no gradient in a single step stays.
    assert 0.9e-6 < max(moved.values()) < 1.2e-6
    assert result.config.scaling_factor not in (1.0, 0.18215)


def test_the_latents_of_an_autoencoder_without_posterior_get_noise() -> None:
    torch.manual_seed(0)
    vae, image = dc(), torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(image).latent
        given, exact = posterior(vae, image, deviation=0.25), posterior(vae, image)
    torch.testing.assert_close(given.mean, latents)
    torch.testing.assert_close(given.std, torch.full_like(latents, 0.25))
    assert exact.std.max() < 1e-6


def test_an_autoencoder_with_a_posterior_keeps_it() -> None:
    torch.manual_seed(0)
    vae, image = tiny_vae(), torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        given, expected = posterior(vae, image, deviation=0.25), vae.encode(image).latent_dist
    assert torch.equal(given.mean, expected.mean) and torch.equal(given.std, expected.std)


def test_a_base_on_an_autoencoder_without_posterior(photos: Path) -> None:
    """It is a stock pipeline's folder; the latents that its UNet learns are those that the autoencoder gives."""
    reset_accelerate()
    torch.manual_seed(0)
    vae = dc()
    vae.save_pretrained(photos.parent / "vae")
    (photos.parent / "tags.csv").write_text("file,tags\n0.png,sky\n")
    argv = [
        *("--train_data_dir", photos, "--vae", photos.parent / "vae", "--output_dir", photos.parent / "base"),
        *("--tags_file", photos.parent / "tags.csv", "--allow_missing_text", "true"),
        *("--max_train_steps", 1, "--train_batch_size", 2),
        *("--resolution", 32, "--block_out_channels", 8, 16, "--attention_head_dim", 8),
    ]
    script("train_base").main([*map(str, argv)])
    base = StableDiffusionPipeline.from_pretrained(photos.parent / "base", safety_checker=None)
    assert isinstance(base.vae, AutoencoderDC) and base.vae_scale_factor == 4
    assert base.unet.config.in_channels == 4


def test_another_kind_of_autoencoder_is_named(photos: Path) -> None:
    with pytest.raises(ValueError, match="holds an AutoencoderTiny: give an AutoencoderKL or an AutoencoderDC"):
        train(photos, tiny(), 1)


def test_an_autoencoder_is_measured(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    dc().save_pretrained(tmp_path / "vae")
    Image.new("RGB", (31, 64)).save(photos / "small.png")
    with pytest.raises(ImageFileError, match=re.escape("1 of 4 photos could not be measured")):
        script("evaluate_autoencoder").main(["--vae", str(tmp_path / "vae"), "--data", str(photos)])
    printed = capsys.readouterr()
    assert printed.err.endswith("small.png: is 31x64 pixels: each side has to have at least 32\n")
    gains, stripes, heading, _, everything, saturated = printed.out.splitlines()
    assert re.fullmatch(r"gains: grey -?\d\.\d{3}, orange–blue -?\d\.\d{3}, magenta–green -?\d\.\d{3}", gains)
    assert re.fullmatch(r"stripes: 2 px -?\d\.\d{2}, 3 px .*, 12 px -?\d\.\d{2}", stripes)
    assert heading.startswith("| | PSNR | PSNR grey | PSNR orange–blue | PSNR magenta–green | HaarPSI | GMSD | ")
    assert everything.startswith("| 3 photos | ") and saturated.startswith("| most saturated | ")


def test_the_last_row_has_the_most_saturated_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate = script("evaluate_autoencoder")
    red, grey = torch.tensor([1.0, 0, 0])[None, :, None, None].expand(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5)
    assert (evaluate.saturation(red), evaluate.saturation(grey)) == (1, 0)
    evaluate.print_table([{"PSNR": float(value)} for value in range(8)])
    assert capsys.readouterr().out.splitlines()[2:] == ["| 8 photos | 3.5000 |", "| most saturated | 6.5000 |"]
