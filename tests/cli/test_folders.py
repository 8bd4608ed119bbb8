"""Whole folders: which files are read, and what their results are called."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusers_sr.image.folders import find_images
from diffusers_sr.image.outputs import Naming, plan_outputs
from tests.cli.photos import files, pixels
from tests.components import tiny_image


def make(*names: str) -> None:
    for number, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        tiny_image(seed=number).save(name)


def test_a_tree_is_mirrored(run, capsys):
    make("in/a.png", "in/2020/b.jpg", "in/2020/may/c.png", "in/2020/may/c.gif", "in/x.png/d.png")
    make("in/.hidden/e.png", "in/2020/.f.png")
    Path("in/2020/notes.txt").write_text("no image")
    assert run("in", "-o", "out", "--recursive") == 0
    assert files("out") == ["2020/b.jpg", "2020/may/c.png", "2020/may/c_2.png", "a.png", "x.png/d.png"]
    assert "Images done: 5, " in capsys.readouterr().out
    assert run("in/2020/b.jpg", "-o", "alone.jpg") == 0
    assert np.array_equal(pixels("out/2020/b.jpg"), pixels("alone.jpg"))


def test_without_the_option_folders_in_folders_are_left_out(run):
    make("in/a.png", "in/2020/b.png")
    assert run("in", "-o", "out") == 0
    assert files("out") == ["a.png"]


def test_links_to_folders_are_not_followed_and_said(run, capsys):
    """They may lead in a circle, or out of the folder."""
    make("in/a.png", "in/sub/b.png", "elsewhere/c.png")
    Path("in/sub/up").symlink_to("..")
    Path("in/self").symlink_to(".")
    Path("in/more").symlink_to("../elsewhere")
    Path("in/d.png").symlink_to("../elsewhere/c.png")
    Path("linked").symlink_to("in")
    assert run("linked", "-o", "out", "--recursive") == 0
    assert files("out") == ["a.png", "d.png", "sub/b.png"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "is a link to a folder" in line]
    assert [line.split(":")[0] for line in lines] == ["linked/more", "linked/self", "linked/sub/up"]


def test_the_output_in_the_input_is_not_read(run):
    make("in/a.png", "in/sub/b.png")
    for _ in range(2):
        assert run("in", "-o", "in/big", "--recursive") == 0
    assert files("in") == ["a.png", "big/a.png", "big/sub/b.png", "sub/b.png"]


def test_a_tree_without_images(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    reason = "there is no image in this folder or in those in it"
    assert find_images([tmp_path / "in"], recursive=True).failures == [(tmp_path / "in", reason)]


def test_a_tree_that_is_deeper_than_the_limit_on_calls(tmp_path):
    deep = tmp_path.joinpath("deep", *["d"] * 300)
    deep.mkdir(parents=True)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 200)
    try:
        failures = find_images([tmp_path / "deep"], recursive=True).failures
    finally:
        sys.setrecursionlimit(limit)
    assert failures == [(tmp_path / "deep", "there is no image in this folder or in those in it")]


def planned(*inputs: str, **options) -> list[str]:
    naming = Naming(**{name: options.pop(name) for name in ("suffix", "format", "comparisons") if name in options})
    plan = plan_outputs([Path(name) for name in inputs], Path("out"), naming, **options)
    return [f"{source} > {target}" for source, target in plan.outputs]


def test_suffix_and_format_in_names():
    assert planned("a.png", "b.gif", suffix="_x4") == ["a.png > out/a_x4.png", "b.gif > out/b_x4.png"]
    assert planned("a.jpeg", "a.png", "a.JPG", format="jpg") == [
        "a.jpeg > out/a.jpg",
        "a.png > out/a_2.jpg",
        "a.JPG > out/a_3.jpg",
    ]
    assert planned("a.gif", "a.jpg", format="jpg", suffix="!") == ["a.jpg > out/a!.jpg", "a.gif > out/a!_2.jpg"]
    assert planned("a.png", "a_compare.png", comparisons=True) == [
        "a.png > out/a.png",
        "a_compare.png > out/a_compare_2.png",
    ]


@pytest.mark.parametrize("comparisons", [False, True])
def test_names_stay_within_what_file_systems_allow(comparisons):
    names = [f"{folder}/{'é' * 120}{letter}.png" for folder in "xy" for letter in "ab"]
    pairs = plan_outputs(
        [Path(name) for name in names], Path("out"), Naming("_" * 40, comparisons=comparisons)
    ).outputs
    targets = [target.name for _, target in pairs]
    assert len({*targets}) == 4
    assert max(len(os.fsencode(name)) for name in targets) <= 255


def test_results_besides_their_photos(run, capsys):
    """Those of an earlier run are neither inputs nor overwritten."""
    make("in/a.png", "in/b.png")
    assert run("in", "-o", "in", "--suffix", "_x2") == 0
    assert files("in") == ["a.png", "a_x2.png", "b.png", "b_x2.png"]
    os.remove("in/b_x2.png")
    kept = Path("in/a_x2.png").stat()
    assert run("in", "-o", "in", "--suffix", "_x2", "--skip-existing") == 0
    assert files("in") == ["a.png", "a_x2.png", "b.png", "b_x2.png"]
    assert Path("in/a_x2.png").stat() == kept
    assert "Skipped, because they exist: 1\nImages done: 1, " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("in", "-o", "in", "--suffix", "_x2")
    assert "the result of in/a.png would overwrite the input in/a_x2.png" in capsys.readouterr().err


def test_skip_existing_looks_at_the_names_of_this_run(run, capsys):
    make("in/sub/a.png", "in/b.png")
    options = ("in", "-o", "out", "--recursive", "--suffix", "_x2", "--format", "jpg")
    assert run("in/b.png", "-o", "out", "--suffix", "_x2") == 0
    assert run(*options) == 0
    assert files("out") == ["b_x2.jpg", "b_x2.png", "sub/a_x2.jpg"]
    assert run(*options, "--skip-existing") == 0
    assert "Skipped, because they exist: 2\n" in capsys.readouterr().out


FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "avif": "AVIF"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats(run, suffix):
    make("photo.gif")
    assert run("photo.gif", "-o", "out", "--format", suffix) == 0
    assert files("out") == [f"photo.{suffix}"]
    with Image.open(f"out/photo.{suffix}") as image:
        assert (image.format, image.size) == (FORMATS[suffix], (32, 32))
    assert run("photo.gif", "-o", f"big.{suffix}") == 0
    assert Path(f"big.{suffix}").read_bytes() == Path(f"out/photo.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", ["jpg", "webp", "avif"])
def test_quality(run, suffix):
    make("photo.png")
    sizes = []
    for quality in ("1", "50", "100"):
        assert run("photo.png", "-o", "out", "--format", suffix, "--quality", quality) == 0
        sizes.append(Path(f"out/photo.{suffix}").stat().st_size)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "out", "--quality", "0"), "argument --quality: 0 is not from 1 to 100"),
        (("-o", "out", "--quality", "101"), "argument --quality: 101 is not from 1 to 100"),
        (("-o", "out", "--quality", "high"), "argument --quality: invalid"),
        (("-o", "out", "--format", "png", "--quality", "90"), "argument --quality: .png has no quality"),
        (("-o", "big.TIF", "--quality", "90"), "argument --quality: .tif has no quality"),
        (("-o", "out", "--format", "gif"), "argument --format: invalid choice: 'gif'"),
        (("-o", "out", "--suffix", "a/b"), "argument --suffix: 'a/b' is not part of a file's name"),
        (("-o", "big.png", "--suffix", "_x4"), "big.png is the name of the result: leave out --suffix and --format"),
        (("-o", "big.png", "--format", "jpg"), "big.png is the name of the result: leave out --suffix and --format"),
    ],
)
def test_options_that_make_no_sense(run, capsys, arguments, message):
    make("photo.png")
    with pytest.raises(SystemExit) as exit:
        run("photo.png", *arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
    assert files() == ["photo.png"]


def test_without_avif_in_pillow(run, capsys, monkeypatch):
    make("photo.png")
    monkeypatch.delitem(Image.SAVE, "AVIF")
    with pytest.raises(SystemExit) as exit:
        run("photo.png", "-o", "out", "--format", "avif")
    assert exit.value.code == 2
    assert "this Pillow cannot write .avif files: install Pillow 11.3 or later" in capsys.readouterr().err
    assert run("photo.png", "-o", "out") == 0
