"""Several photos of one size in one call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from diffusers_sr import SeeSRPipeline
from diffusers_sr.cli.main import main
from tests.cli.photos import files, pixels
from tests.components import tiny_image


@pytest.fixture
def calls(monkeypatch):
    """How many images each call of the pipeline gets; calls with an image of this red are refused."""
    sizes: list[int] = []
    original = SeeSRPipeline.__call__

    def call(self, image, **arguments):
        images = image if isinstance(image, list) else [image]
        sizes.append(len(images))
        if any(each.getpixel((0, 0)) == (255, 0, 1) for each in images):
            raise ValueError("this image cannot be enlarged")
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA")
        return original(self, image=image, **arguments)

    monkeypatch.setattr(SeeSRPipeline, "__call__", call)
    return sizes


def folder(*sizes: tuple[int, int]) -> None:
    Path("in").mkdir()
    for number, size in enumerate(sizes):
        tiny_image(*size, seed=number).save(f"in/{number}.png")


def test_neighbours_of_one_size_go_together(run, calls):
    folder((16, 12), (16, 12), (16, 12), (12, 16), (16, 12), (16, 12))
    Path("in/3_broken.png").write_text("no image")
    assert run("in", "-o", "out", "--batch-size", "2") == 1
    assert calls == [2, 1, 1, 2]
    assert files("out") == [f"{number}.png" for number in range(6)]


@pytest.mark.parametrize("method", ["model", "coser", "xpsr", "pasd", "one_step"])
def test_a_photos_result_does_not_depend_on_its_batch(request, tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    folder((16, 12), (16, 12), (16, 12))
    own = ("--captioner", "measured") if method in ("xpsr", "pasd") else ()
    command = ["upscale", "in", "--model", request.getfixturevalue(method), "--upscale", "2", "--device", "cpu", *own]
    assert main([*command, "-o", "alone"]) == 0
    assert main([*command, "-o", "together", "--batch-size", "3"]) == 0
    for number in range(3):
        alone, together = (pixels(f"{name}/{number}.png").astype(int) for name in ("alone", "together"))
        assert np.abs(alone - together).max() <= 1, number  # rounding to 8 bits
    assert not np.array_equal(pixels("alone/0.png"), pixels("alone/1.png"))


def test_prompts_of_each_photo(xpsr, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder((16, 12), (16, 12))
    assert main(["caption", "in", "-o", "prompts", "--captioner", "measured", "--device", "cpu"]) == 0
    command = ["upscale", "in", "--model", xpsr, "--upscale", "2", "--device", "cpu", "--prompts", "prompts"]
    assert main([*command, "-o", "alone"]) == 0
    assert main([*command, "-o", "together", "--batch-size", "2"]) == 0
    for number in range(2):
        alone, together = (pixels(f"{name}/{number}.png").astype(int) for name in ("alone", "together"))
        assert np.abs(alone - together).max() <= 1


def test_a_photo_that_fails_takes_no_others_with_it(run, calls, capsys):
    folder((16, 12), (16, 12))
    image = tiny_image(16, 12)
    image.putpixel((0, 0), (255, 0, 1))
    image.save("in/0_bad.png")
    assert run("in", "-o", "out", "--batch-size", "2") == 1
    assert files("out") == ["0.png", "1.png"]
    captured = capsys.readouterr()
    assert "in/0.png: its batch of 2 failed, and is enlarged one by one: this image cannot be enlarged" in captured.err
    assert captured.out.endswith("Images and folders that failed: 1\n  in/0_bad.png: this image cannot be enlarged\n")
    assert calls == [2, 1, 1, 1]


def test_a_batch_that_needs_too_much_memory(run, calls, capsys):
    folder(*[(16, 12)] * 3)
    assert run("in", "-o", "out", "--batch-size", "3") == 0
    assert calls == [3, 1, 1, 1]
    assert "its batch of 3 failed, and is enlarged one by one: there is not enough memory" in capsys.readouterr().err
    assert files("out") == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch-size", "0"), "argument --batch-size: 0 is not above 0"),
        (("--batch-size", "2", "--reference", "a.png"), "--batch-size: not allowed with argument --reference"),
    ],
)
def test_batches_that_make_no_sense(run, capsys, arguments, message):
    tiny_image().save("a.png")
    with pytest.raises(SystemExit) as exit:
        run("a.png", "-o", "out", *arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
