"""Where results go, and what happens to files that cannot be read or written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.image.exif import read_exif
from diffusers_sr.image.metadata import Metadata
from diffusers_sr.image.outputs import plan_outputs
from diffusers_sr.image.reader import Photo, read_photo
from diffusers_sr.image.writer import check_output
from tests.cli.photos import SRGB, exif, files, pixels
from tests.components import tiny_image


def test_folders_and_files_to_a_folder(run, capsys):
    for name in (
        "in/a.png",
        "in/b.JPG",
        "in/b.png",
        "in/c.gif",
        "in/c.png",
        "in/.hidden.png",
        "in/sub/d.png",
        "e.bmp",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        tiny_image().save(name)
    Path("in/notes.txt").write_text("no image")
    assert run("in", "e.bmp", "in/a.png", "-o", "out") == 0
    assert files("out") == ["a.png", "b.JPG", "b.png", "c.png", "c_2.png", "e.bmp"]
    assert "Images done: 6, " in capsys.readouterr().out
    assert pixels("out/b.JPG").shape == (32, 32, 3)


def test_bad_files_are_named_and_the_others_done(run, capsys):
    Path("in").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for kind in ("png", "jpg", "webp", "tif"):
        Image.fromarray(noise).save(f"whole.{kind}")
        Path(f"in/cut.{kind}").write_bytes(Path(f"whole.{kind}").read_bytes()[:1500])
    Path("in/empty.png").touch()
    Path("in/text.jpg").write_text("This is not a photograph.")
    Path("in/zero.ppm").write_bytes(b"P6\n0 0\n255\n")
    Path("in/broken.png").write_bytes(Path("whole.png").read_bytes()[:33] + bytes(100))
    tiny_image().save("in/z_good.png")
    assert run("in", "missing.png", "-o", "out") == 1
    assert files("out") == ["z_good.png"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "it/s" not in line and "%" not in line]
    reasons = dict(line.split(": ", 1) for line in lines if line.startswith(("in", "missing")))
    assert reasons.pop("missing.png") == "there is no such file"
    assert reasons.pop("in/empty.png") == "the file is empty"
    assert reasons.pop("in/text.jpg") == "is not an image that can be read"
    assert reasons.pop("in/zero.ppm") == "is not an image that can be read"
    assert {Path(name).stem for name in reasons} == {"cut", "broken"}
    assert len(reasons) == 5
    assert "truncated" in reasons["in/cut.png"]


def test_folder_without_images(run, capsys):
    Path("empty").mkdir()
    tiny_image().save("photo.png")
    assert run("empty", "photo.png", "-o", "out") == 1
    assert files("out") == ["photo.png"]
    assert "empty: there is no image in this folder" in capsys.readouterr().err


def test_output_that_cannot_be_written(run, capsys):
    tiny_image().save("photo.png")
    Path("occupied").write_text("a file")
    assert run("photo.png", "-o", "occupied/big.png") == 1
    assert capsys.readouterr().err.count("photo.png: ") == 1
    assert files() == ["occupied", "photo.png"]


def test_existing_output_is_overwritten_or_skipped(run, capsys):
    tiny_image().save("a.png")
    tiny_image().save("b.png")
    Path("out").mkdir()
    Path("out/a.png").write_text("old")
    assert run("a.png", "b.png", "-o", "out", "--skip-existing") == 0
    assert Path("out/a.png").read_text() == "old"
    assert pixels("out/b.png").shape == (32, 32, 3)
    assert "Skipped, because they exist: 1" in capsys.readouterr().out
    assert run("a.png", "b.png", "-o", "out") == 0
    assert pixels("out/a.png").shape == (32, 32, 3)


def test_results_of_one_name_do_not_overwrite_each_other():
    pairs = plan_outputs([Path("x/a.png"), Path("y/A.png"), Path("z/a_2.png")], Path("out")).outputs
    assert [str(target) for _, target in pairs] == ["out/a.png", "out/A_2.png", "out/a_2_2.png"]


@pytest.mark.parametrize(
    ("path", "size", "message"),
    [
        ("big.webp", (20000, 10), "20000x10 is too large for WEBP"),
        ("big.jpg", (10, 70000), "10x70000 is too large for JPEG"),
        ("big.bmp", (10, 10), "BMP cannot hold its transparency and colour profile and EXIF data"),
    ],
)
def test_formats_that_cannot_hold_the_result(path, size, message):
    photo = Photo(
        tiny_image(), Image.new("L", (16, 16), 9), "RGB", False, SRGB, Metadata(read_exif(exif().tobytes()).exif)
    )
    with pytest.raises(ImageFileError, match=message):
        check_output(photo, Path(path), *size)
    check_output(photo, Path("big.png"), *size)


def test_decompression_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    tiny_image().save(tmp_path / "photo.png")
    with pytest.raises(ImageFileError, match="exceeds limit"):
        read_photo(tmp_path / "photo.png")
