"""The size of the results."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from diffusers_sr import upscale_for
from diffusers_sr.cli.main import main
from diffusers_sr.image.pixels import output_size
from tests.cli.photos import files
from tests.components import tiny_image


def size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--long-side", "50"), (50, 38)),  # 12 * 50 / 16 = 37.5
        (("--long-side", "47"), (47, 35)),
        (("--width", "33"), (33, 25)),
        (("--megapixels", "0.003"), (63, 47)),  # a factor of 3.95
        (("--upscale", "3", "--max-side", "40"), (40, 30)),
        (("--upscale", "2", "--max-side", "40"), (32, 24)),
        (("--long-side", "50", "--max-side", "20"), (20, 15)),
        (("--long-side", "16"), (16, 12)),
        (("--upscale", "0.5"), (8, 6)),
        (("--upscale", "0.5", "--max-side", "4"), (4, 3)),
    ],
)
def test_sizes(model, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    tiny_image(16, 12).save("photo.png")
    assert main(["upscale", "photo.png", "-o", "big.png", "--model", model, "--device", "cpu", *arguments]) == 0
    assert size("big.png") == expected


@pytest.mark.parametrize("side", ["long_side", "width"])
def test_the_side_that_was_asked_for_is_met_exactly(side):
    for long in range(1, 400, 7):
        for asked in range(long, 5000, 173):
            factor = upscale_for((long, 1), **{side: asked})
            assert output_size(1, long, factor)[1] == asked
    assert upscale_for((10, 40), long_side=80) == 2
    assert upscale_for((10, 40), width=80) == 8
    assert upscale_for((10, 40), upscale=3, max_side=60) == 1.5
    assert upscale_for((2000, 500), megapixels=4) == 2
    for wrong in ({}, {"width": 3, "upscale": 2.0}):
        with pytest.raises(ValueError, match="give one of upscale, long_side, width and megapixels"):
            upscale_for((10, 40), **wrong)


@pytest.fixture
def upscale(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["upscale", "--model", model, "--device", "cpu", *arguments])


@pytest.mark.parametrize(
    "arguments", [("--long-side", "20"), ("--megapixels", "0.0004"), ("--upscale", "2", "--max-side", "20")]
)
def test_photos_that_are_large_already_are_left_alone(upscale, capsys, arguments):
    Path("in").mkdir()
    tiny_image(24, 20).save("in/large.png")
    tiny_image(10, 8).save("in/small.png")
    assert upscale("in", "-o", "out", *arguments) == 0
    assert files("out") == ["small.png"]
    captured = capsys.readouterr()
    assert "in/large.png: has 24x20 pixels already: it is left alone" in captured.err
    assert "Left alone, because they are larger than what was asked for: 1\nImages done: 1, " in captured.out


def test_a_photo_that_would_be_enlarged_too_much(upscale, capsys):
    tiny_image(8, 8).save("a.png")
    tiny_image(16, 16).save("b.png")
    assert upscale("a.png", "b.png", "-o", "out", "--long-side", "900") == 1
    assert "a.png: 8x8 pixels would be enlarged by 112.5, at most 100 is possible" in capsys.readouterr().err
    assert size("out/b.png") == (900, 900)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--upscale", "2", "--width", "9"), "--width: not allowed with argument --upscale"),
        (("--long-side", "20", "--megapixels", "2"), "--megapixels: not allowed with argument --long-side"),
        (("--long-side", "0"), "--long-side: 0 is not above 0"),
        (("--width", "1.5"), "--width: invalid"),
        (("--megapixels", "nan"), "--megapixels: nan is not above 0"),
        (("--megapixels", "inf"), "--megapixels: inf is not above 0"),
        (("--max-side", "-3"), "--max-side: -3 is not above 0"),
    ],
)
def test_sizes_that_make_no_sense(upscale, capsys, arguments, message):
    tiny_image().save("photo.png")
    with pytest.raises(SystemExit) as exit:
        upscale("photo.png", "-o", "big.png", *arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
