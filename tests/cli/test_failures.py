"""Runs in which something fails: it is named and counted, and the rest is done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_sr import SeeSRPipeline
from diffusers_sr.cli.main import main
from diffusers_sr.image.outputs import plan_outputs
from diffusers_sr.image.partial import whole_file
from tests.cli.photos import files
from tests.components import tiny_image
from tests.fuzz.seeds import seeds


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit, which a command may set, as it was before."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


def mixed_folder() -> None:
    """Make a folder with two photos, and what cannot be read."""
    Path("in").mkdir()
    tiny_image().save("in/a.png")
    tiny_image(seed=1).save("in/z.png")
    Path("in/loop.png").symlink_to("loop.png")
    Path("in/lost.png").symlink_to("nowhere.png")
    Path("in/page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    Path("in/folder.png").mkdir()
    Path("circle").symlink_to("circle")


REASONS = {
    "in/loop.png": "Too many levels of symbolic links",
    "in/lost.png": "there is no such file",
    "in/page.png": "is a PostScript file, not an image that can be read",
}


def test_links_and_foreign_files_among_photos(run, capsys):
    mixed_folder()
    assert run("in", "circle", "-o", "out") == 1
    assert files("out") == ["a.png", "z.png"]
    captured = capsys.readouterr()
    reasons = {**REASONS, "circle": "Too many levels of symbolic links"}
    for name, reason in reasons.items():
        assert captured.err.count(f"{name}: {reason}") == 1, name
    assert "Images done: 2, " in captured.out
    summary = captured.out.splitlines()
    assert summary[-5] == "Images and folders that failed: 4"
    for line, (name, reason) in zip(sorted(summary[-4:]), sorted(reasons.items()), strict=True):
        assert line.startswith(f"  {name}: {reason}")


def test_the_same_when_they_are_described(run, capsys):
    mixed_folder()
    assert main(["caption", "in", "-o", "prompts", "--captioner", "measured", "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    for name, reason in REASONS.items():
        assert captured.err.count(f"{name}: {reason}") == 1, name
    assert captured.out == "Images described: 2, described before: 0, failed: 3\n"


def test_a_single_failure_is_not_counted(run, capsys):
    Path("photo.png").touch()
    assert run("photo.png", "-o", "big.png") == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "photo.png: the file is empty\n")


def test_damaged_files_of_every_kind_end_no_run(run, capsys):
    Path("in").mkdir()
    made = seeds()
    for kind, (suffix, content) in made.items():
        Path(f"in/{kind}{suffix}").write_bytes(content[: len(content) // 3])
    Path("in/page.gif").write_bytes(b"%PDF-1.7")
    assert run("in", "-o", "out") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("in/")]
    assert len(lines) > len(made) // 2
    assert len(lines) + len(files("out")) == len(made) + 1


def test_damaged_references(run, coser, capsys):
    tiny_image().save("photo.png")
    for name, content in (("page.png", b"%!PS-Adobe"), ("cut.tif", seeds()["TIFF"][1][:100])):
        Path(name).write_bytes(content)
        with pytest.raises(SystemExit) as exit:
            run("photo.png", "-o", "big.png", "--model", coser, "--reference", name)
        assert exit.value.code == 2
        assert f"argument --reference: {name}: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "é" * 125 + "a.png"])
def test_long_names(run, name):
    Path("in").mkdir()
    tiny_image().save(f"in/{name}")
    assert run("in", "-o", "out") == 0
    assert files("out") == [name]
    command = ["caption", "in", "-o", "prompts", "--captioner", "measured", "--layout", "official"]
    assert main([*command, "--device", "cpu"]) == 0
    assert len(files("prompts")) == 2


def test_a_number_makes_no_name_too_long():
    stem = "é" * 125
    (_, first), (_, second) = plan_outputs([Path(f"x/{stem}a.png"), Path(f"y/{stem}a.png")], Path("out")).outputs
    assert first.name == f"{stem}a.png"
    assert second.name == "é" * 124 + "_2.png"
    assert len(os.fsencode(second.name)) == 254


@pytest.mark.parametrize("name", ["big.GIF", "big.jp2", "big.heic"])
def test_a_suffix_that_is_only_read_does_not_become_a_folder(run, capsys, name):
    tiny_image().save("photo.png")
    with pytest.raises(SystemExit) as exit:
        run("photo.png", "-o", name)
    assert exit.value.code == 2
    assert f"{name}: {Path(name).suffix} is read, but not written: choose .png, .jpg," in capsys.readouterr().err
    assert files() == ["photo.png"]


def test_what_a_killed_run_left_is_removed_by_the_next(run):
    tiny_image().save("photo.png")
    Path("out").mkdir()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with whole_file(Path("out/photo.png")) as temporary:
        temporary.touch()
        own = temporary.name
    os.remove("out/photo.png")
    Path("out", own.replace(f"-{os.getpid()}-", f"-{process.pid}-")).touch()
    Path("out/.other.partial").touch()
    assert run("photo.png", "-o", "out") == 0
    assert sorted(os.listdir("out")) == [".other.partial", "photo.png"]


@pytest.mark.parametrize("factor", ["1e9", "nan", "inf", "-inf", "100.1", "0", "-2", "four"])
def test_factors_that_make_no_sense(run, capsys, factor):
    tiny_image().save("photo.png")
    with pytest.raises(SystemExit) as exit:
        run("photo.png", "-o", "big.png", f"--upscale={factor}")
    assert exit.value.code == 2
    assert "argument --upscale: " in capsys.readouterr().err


def test_the_limit_on_pixels(run, capsys, limit):
    tiny_image(20, 10).save("photo.png")
    assert run("photo.png", "-o", "big.png", "--max-pixels", "199") == 1
    message = "photo.png: Image size (200 pixels) exceeds limit of 199 pixels: if the file is to be trusted, raise"
    assert message in capsys.readouterr().err
    command = ["caption", ".", "-o", "prompts", "--captioner", "measured", "--device", "cpu"]
    assert main([*command, "--max-pixels", "199"]) == 1
    assert message in capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        assert run("photo.png", "-o", "big.png", "--max-pixels", "200") == 0


@pytest.mark.parametrize(
    ("size", "arguments", "remedy"),
    [
        ((16, 16), (), ": try a smaller --tile-size and --vae-tile-size"),
        ((300, 300), ("--tile-size", "32"), r" for a result of 600x600 pixels: try a smaller --upscale, or cut .*"),
        ((16, 16), ("--tile-size", "8", "--tile-overlap", "0"), ": try a smaller --vae-tile-size"),
        ((16, 16), ("--tile-size", "8", "--tile-overlap", "0", "--vae-tile-size", "8"), ""),
    ],
)
def test_what_helps_if_memory_runs_out(run, capsys, monkeypatch, size, arguments, remedy):
    tiny_image(*size).save("photo.png")

    def call(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA")

    monkeypatch.setattr(SeeSRPipeline, "__call__", call)
    assert run("photo.png", "-o", "big.png", *arguments) == 1
    assert re.fullmatch(f"photo.png: there is not enough memory{remedy}\n", capsys.readouterr().err)


def test_memory_that_runs_out_while_writing(run, capsys, monkeypatch):
    tiny_image().save("a.png")
    tiny_image().save("b.png")

    def save(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "save", save)
    assert run("a.png", "b.png", "-o", "out") == 1
    assert capsys.readouterr().err.count("cannot be written: there is not enough memory") == 2
    assert files("out") == []
