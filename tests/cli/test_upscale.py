"""`diffusers-sr upscale`: from files to enlarged files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffusers_sr
from diffusers_sr import SeeSRPipeline
from diffusers_sr.cli.main import main
from tests.cli.photos import files, pixels
from tests.components import tiny_image


def test_file_to_file(run, capsys):
    tiny_image(16, 12).save("photo.png")
    assert run("photo.png", "-o", "out/big.jpg") == 0
    with Image.open("out/big.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 24))
    assert files() == ["out/big.jpg", "photo.png"]
    captured = capsys.readouterr()
    assert "Images done: 1, " in captured.out
    assert "seconds an image" in captured.out
    assert "photo.png: 100%" in captured.err


def test_every_option_reaches_the_pipeline(run):
    tiny_image(16, 12).save("photo.png")

    def result(*arguments: str) -> np.ndarray:
        assert run("photo.png", "-o", "big.png", *arguments) == 0
        return pixels("big.png").astype(int)

    plain = result()
    assert np.array_equal(plain, result("--steps", "1", "--seed", "0", "--color-fix", "adain", "--dtype", "float32"))
    guided = result("--steps", "3", "--guidance-scale", "7")
    changed = {
        "steps": result("--steps", "3"),
        "guidance": guided,
        "seed": result("--seed", "1"),
        "wavelet": result("--color-fix", "wavelet"),
        "none": result("--color-fix", "none"),
        "official": result("--official-preprocessing"),
        "tiles": result("--tile-size", "16"),
        "overlap": result("--tile-size", "16", "--tile-overlap", "0"),
    }
    for name, other in changed.items():
        assert not np.array_equal(plain, other), name
    assert not np.array_equal(
        guided, result("--steps", "3", "--guidance-scale", "7", "--prompt", "a red cat, 9 zebras")
    )
    assert not np.array_equal(changed["wavelet"], changed["none"])
    assert not np.array_equal(changed["tiles"], changed["overlap"])
    bfloat16 = result("--dtype", "bfloat16")
    assert 0 < np.abs(bfloat16 - plain).mean() < 8


def test_upscale_factor(run, model):
    tiny_image(16, 11).save("photo.png")
    assert main(["upscale", "photo.png", "-o", "4.png", "--model", model, "--device", "cpu"]) == 0
    assert pixels("4.png").shape == (44, 64, 3)
    assert run("photo.png", "-o", "1.png", "--upscale", "1.5") == 0
    assert pixels("1.png").shape == (16, 24, 3)


def test_an_images_result_does_not_depend_on_the_others(run):
    Path("in").mkdir()
    tiny_image(seed=1).save("in/a.png")
    tiny_image(seed=2).save("in/b.png")
    assert run("in", "-o", "out") == 0
    assert run("in/b.png", "-o", "alone.png") == 0
    assert np.array_equal(pixels("out/b.png"), pixels("alone.png"))


def test_image_of_one_pixel(run):
    Image.new("RGB", (1, 1), (200, 100, 50)).save("photo.png")
    assert run("photo.png", "-o", "big.png") == 0
    assert pixels("big.png").shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tile-size", "13"), "tile_size=13, expected a multiple of 8"),
        (("--tile-size", "8"), "tile_overlap=8, expected less than tile_size=8"),
        (("--tile-overlap", "64"), "tile_overlap=64, expected less than tile_size=64"),
        (("--tile-overlap", "-8"), "tile_overlap=-8, expected a multiple of 8"),
        (("--guidance-scale", "nan"), "guidance_scale=nan, expected a number"),
    ],
)
def test_argument_that_the_pipeline_refuses(run, capsys, arguments, message):
    """It is wrong for all images, and said once, before the first of them."""
    for name in ("a.png", "b.png"):
        tiny_image().save(name)
    with pytest.raises(SystemExit) as exit:
        run("a.png", "b.png", "-o", "out", *arguments)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.count(message) == 1
    assert ".png" not in error
    assert files() == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.png", "-o", "a.png"), "would overwrite the input"),
        (("in", "-o", "in"), "would overwrite the input"),
        (("a.png", "b.png", "-o", "big.png"), "go to a folder"),
        (("in", "-o", "big.png"), "go to a folder"),
        (("a.png", "-o", "b"), "go to a folder"),
        (("a.png",), "-o/--output"),
        (("a.png", "-o", "out", "--upscale", "0"), "--upscale"),
        (("a.png", "-o", "out", "--upscale", "nan"), "--upscale"),
        (("a.png", "-o", "out", "--steps", "0"), "--steps"),
        (("a.png", "-o", "out", "--color-fix", "magic"), "--color-fix"),
        (("a.png", "-o", "out", "--device", "abacus"), "--device: abacus is not available"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name in ("a.png", "b.png", "in/c.png"):
        tiny_image().save(name)
    Path("b").touch()
    before = {name: Path(name).read_bytes() for name in files()}
    with pytest.raises(SystemExit) as exit:
        main(["upscale", *arguments])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
    assert {name: Path(name).read_bytes() for name in files()} == before


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory"), MemoryError()]
)
def test_too_little_memory(run, capsys, monkeypatch, error):
    tiny_image().save("photo.png")

    def call(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(SeeSRPipeline, "__call__", call)
    assert run("photo.png", "-o", "big.png") == 1
    assert "photo.png: there is not enough memory: try a smaller --tile-size" in capsys.readouterr().err


def test_interruption_leaves_nothing(run, capsys, monkeypatch):
    tiny_image().save("photo.png")

    def interrupted(self: Image.Image, path: Path, **kwargs: object) -> None:
        Path(path).write_bytes(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    assert run("photo.png", "-o", "big.png") == 130
    assert capsys.readouterr().err.endswith("diffusers-sr: interrupted\n")
    assert files() == ["photo.png"]


def test_progress_and_reports_stay_off_standard_output(run, capfd):
    tiny_image().save("photo.png")
    assert run("photo.png", "-o", "big.png") == 0
    assert capfd.readouterr().out.count("\n") == 1


def test_only_the_images_progress_is_shown(model, tmp_path):
    tiny_image().save(tmp_path / "photo.png")
    command = [
        sys.executable,
        "-m",
        "diffusers_sr.cli",
        "upscale",
        "photo.png",
        "-o",
        "big.png",
        "--model",
        model,
    ]
    folder = Path(diffusers_sr.__file__).parents[1]
    done = subprocess.run(
        [*command, "--upscale", "2", "--device", "cpu"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    assert "photo.png: 100%" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("photo.png: ")] == []
