"""Comparisons of a photo and its result."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from tests.cli.photos import SRGB, exif, files, pixels
from tests.components import tiny_image


def test_the_photo_is_on_the_left_and_the_result_on_the_right(run):
    photo = tiny_image(16, 12)
    photo.save("photo.png", icc_profile=SRGB, exif=exif())
    assert run("photo.png", "-o", "out", "--compare", "--suffix", "_x2") == 0
    assert files("out") == ["photo_x2.png", "photo_x2_compare.png"]
    both = pixels("out/photo_x2_compare.png")
    assert both.shape == (32, 48, 3)
    upright = photo.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(both[:, :24], np.asarray(upright.resize((24, 32), Image.Resampling.BICUBIC)))
    assert np.array_equal(both[:, 24:], pixels("out/photo_x2.png"))
    with Image.open("out/photo_x2_compare.png") as image:
        assert image.info["icc_profile"] == SRGB
        assert "exif" not in image.info
        assert "diffusers-sr" not in image.info


def test_transparency_and_grey(run):
    photo = tiny_image()
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.save("clear.png")
    tiny_image().convert("L").save("grey.png")
    assert run("clear.png", "grey.png", "-o", "out", "--compare") == 0
    alpha = pixels("out/clear.png")[..., 3]
    assert np.array_equal(pixels("out/clear_compare.png")[..., 3], np.concatenate([alpha, alpha], axis=1))
    with Image.open("out/grey_compare.png") as image:
        assert image.mode == "L"


def test_of_results_in_other_formats_and_with_a_name(run):
    tiny_image().save("photo.png")
    assert run("photo.png", "-o", "big.jpg", "--compare") == 0
    assert files() == ["big.jpg", "big_compare.png", "photo.png"]


def test_an_existing_result_without_comparison_is_made_again(run, capsys):
    tiny_image(seed=1).save("a.png")
    tiny_image(seed=2).save("b.png")
    options = ("a.png", "b.png", "-o", "out", "--compare")
    assert run(*options) == 0
    os.remove("out/a_compare.png")
    assert run(*options, "--skip-existing") == 0
    assert "Skipped, because they exist: 1\nImages done: 1, " in capsys.readouterr().out
    assert files("out") == ["a.png", "a_compare.png", "b.png", "b_compare.png"]
