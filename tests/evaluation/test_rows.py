from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from diffusers_sr.evaluation.baselines import to_image, to_picture
from diffusers_sr.evaluation.rows import baseline_row, call_argument, model_and_arguments, results_row
from diffusers_sr.image.decoding import ImageFileError


def test_pictures_and_images() -> None:
    picture = Image.effect_noise((9, 7), 50).convert("RGB")
    image = to_image(picture)
    assert image.shape == (1, 3, 7, 9)
    assert to_picture(image).tobytes() == picture.tobytes()


def test_baselines() -> None:
    # Between grey levels that no filter carries beyond 0 and 255, where Pillow clips after each of its two passes. It
    # rounds, too: weights of the second pass, whose magnitudes add up to 1.25, act on the rounding of the first.
    levels = np.random.default_rng(0).integers(90, 166, (7, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(levels)
    image = to_image(picture)
    bicubic = to_image(picture.resize((36, 28), Image.Resampling.BICUBIC))
    assert (255 * (baseline_row("bicubic").enlarge("", "", image, (28, 36)) - bicubic)).abs().max() < 1.13
    sharp = picture.resize((36, 28), Image.Resampling.LANCZOS).filter(ImageFilter.UnsharpMask(2, 150, 3))
    assert torch.equal(
        baseline_row("Lanczos + unsharp mask").enlarge("", "", image, (28, 36)),
        to_image(sharp),
    )


def test_results_of_another_program(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    picture = Image.effect_noise((36, 28), 50)
    picture.save(tmp_path / "set" / "a.png")
    row = results_row(tmp_path)
    assert row.megabytes is None
    result = row.enlarge("set", "a", torch.rand(1, 3, 7, 9), (28, 36))
    assert torch.equal(result, to_image(picture.convert("RGB")))
    with pytest.raises(ImageFileError, match="is 36x28 pixels, and its original 40x28"):
        row.enlarge("set", "a", torch.rand(1, 3, 7, 10), (28, 40))
    with pytest.raises(ImageFileError, match="has to hold one picture of the name b, and has 0"):
        row.enlarge("set", "b", torch.rand(1, 3, 7, 9), (28, 36))


def test_models_and_arguments_of_their_call() -> None:
    assert model_and_arguments("seesr-small") == ("seesr-small", {})
    assert model_and_arguments("a folder/b=c") == ("a folder/b=c", {})
    text = "a folder activation=lr guidance_scale=1.5  color_fix=null"
    assert model_and_arguments(text) == ("a folder", {"activation": "lr", "guidance_scale": 1.5, "color_fix": None})
    assert call_argument("prompt=a=b c") == ("prompt", "a=b c")
