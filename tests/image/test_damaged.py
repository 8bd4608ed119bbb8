"""Files that cannot be read: every error is one of the file, and nothing but the formats that are meant is opened."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

import diffusers_sr
from diffusers_sr.data.photos import read_image
from diffusers_sr.image.bands import bands
from diffusers_sr.image.decoding import ImageFileError, on_white, open_image, to_array, to_rgb
from diffusers_sr.image.folders import find_images
from diffusers_sr.image.formats import OPENED, images_in
from diffusers_sr.image.pixels import read_images
from diffusers_sr.image.reader import read_photo
from tests.components import tiny_image
from tests.permissions import without_rights

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["photo.png", "photo.eps", "photo.jpg"])
def test_postscript_never_reaches_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho run >>{tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # looked for once
    (tmp_path / name).write_bytes(POSTSCRIPT)
    for read in (read_photo, read_image):
        with pytest.raises(ImageFileError, match="is a PostScript file, not an image that can be read"):
            read(tmp_path / name)
    with pytest.raises(ImageFileError, match="is a PostScript file"):
        read_image(POSTSCRIPT)
    assert not (tmp_path / "ran").exists()


def test_the_formats_that_are_opened() -> None:
    assert OPENED == ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", "TGA")


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"%PDF-1.7", "a PDF file"),
        (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"\0\0\1\0\1\0", "an icon"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, start: bytes, kind: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(start + bytes(100))
    with pytest.raises(ImageFileError, match=f"^is {kind}, not an image that can be read: those are "):
        read_photo(tmp_path / "photo.jpg")


def test_a_phones_heif_file_names_the_plugin(tmp_path: Path) -> None:
    if "HEIF" in Image.OPEN:
        pytest.skip("pillow-heif is installed")
    (tmp_path / "photo.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100))
    with pytest.raises(ImageFileError, match="is a HEIF file, as of a phone: install pillow-heif to read it"):
        read_photo(tmp_path / "photo.heic")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TypeError("bad operand"), r"is damaged \(TypeError: bad operand\)"),
        (IndexError(), r"is damaged \(IndexError: \)"),
        (RuntimeError("no frames"), r"is damaged \(RuntimeError: no frames\)"),
        (MemoryError(), "there is not enough memory to decode it, or it is damaged"),
        (OSError("image file is truncated"), "image file is truncated"),
        (OSError(40, "Too many levels of symbolic links", "x"), "Too many levels of symbolic links"),
        (EOFError(), r"is damaged \(EOFError\)"),
    ],
)
def test_whatever_is_raised_while_decoding_is_an_error_of_the_file(
    tmp_path: Path, error: Exception, message: str
) -> None:
    tiny_image().save(tmp_path / "photo.png")
    with pytest.raises(ImageFileError, match=f"^{message}$"), open_image(tmp_path / "photo.png"):
        raise error
    with pytest.raises(KeyboardInterrupt), open_image(tmp_path / "photo.png"):
        raise KeyboardInterrupt


class Undecodable(ImageFile.ImageFile):
    """An image of someone else's, whose plugin fails while decoding."""

    format = "TIFF"

    def _open(self) -> None:
        self._mode, self._size = "F", (8, 8)
        self.tile = []

    def load(self) -> None:
        raise IndexError("list index out of range")


def test_an_image_that_a_user_opened_fails_as_a_value() -> None:
    image = Undecodable(io.BytesIO(b"x"))
    for read in (read_images, to_rgb):
        with pytest.raises(ValueError, match=r"is damaged \(IndexError: list index out of range\)"):
            read(image)


def test_damaged_frames_do_not_end_a_run(tmp_path: Path) -> None:
    tiny_image().save(tmp_path / "photo.tif")
    content = bytearray((tmp_path / "photo.tif").read_bytes())
    (start,) = struct.unpack("<I", content[4:8])
    (entries,) = struct.unpack("<H", content[start : start + 2])
    end = start + 2 + 12 * entries
    content[end : end + 4] = struct.pack("<I", len(content) - 1)  # the next frame begins in the last byte
    (tmp_path / "photo.tif").write_bytes(content)
    with pytest.raises(ImageFileError):
        read_photo(tmp_path / "photo.tif")


def test_the_limit_says_how_it_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_image().save(tmp_path / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    message = re.escape("Image size (256 pixels) exceeds limit of 200 pixels") + ".*--max-pixels.*MAX_IMAGE_PIXELS"
    for read in (read_photo, read_image):
        with pytest.raises(ImageFileError, match=message):
            read(tmp_path / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 128)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_photo(tmp_path / "photo.png").image.size == (16, 16)


def test_damaged_exif_data_of_any_kind_costs_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_image().save(tmp_path / "photo.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    photo = read_photo(tmp_path / "photo.jpg")
    assert photo.image.size == (16, 16)
    for error in (IndexError, OverflowError, RuntimeError):

        def fails(self: Image.Exif, *_: object, error: type[Exception] = error) -> bytes:
            raise error

        monkeypatch.setattr(Image.Exif, "tobytes", fails)
        assert read_photo(tmp_path / "photo.jpg").notes == ["has damaged EXIF data, which is not kept"]


def test_damage_to_a_pngs_pixels_is_not_taken_for_damage_to_its_exif_data(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "photo.png", exif=Image.Exif())
    content = (tmp_path / "photo.png").read_bytes()
    (tmp_path / "photo.png").write_bytes(content[:2000])
    with pytest.raises(ImageFileError, match="truncated"):
        read_photo(tmp_path / "photo.png")


def test_bands_cover_an_image() -> None:
    assert list(bands((1024, 2500))) == [(0, 0, 1024, 1024), (0, 1024, 1024, 2048), (0, 2048, 1024, 2500)]
    assert list(bands((3_000_000, 2))) == [(0, 0, 3_000_000, 1), (0, 1, 3_000_000, 2)]


def test_work_in_bands_is_work_on_the_whole() -> None:
    deep = np.arange(1500 * 1000, dtype=np.int64).reshape(1500, 1000) % 65536
    grey = np.asarray(to_rgb(Image.fromarray(deep.astype(np.uint16))).image)
    assert (grey == ((deep + 128) // 257)[..., None]).all()
    alpha = Image.linear_gradient("L").resize((1000, 1500))
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1500, 1000, 3), dtype=np.uint8))
    whole = colour.copy()
    whole.putalpha(alpha)
    expected = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    assert np.array_equal(np.asarray(on_white(colour, alpha)), np.asarray(expected))
    assert np.array_equal(to_array(colour), np.asarray(colour))


MEMORY = """
import threading, time
from pathlib import Path
from diffusers_sr.data.photos import read_image
from diffusers_sr.image.reader import read_photo

def memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def watch():
    global most
    while watching:
        most = max(most, memory())
        time.sleep(0.001)

for reader in (read_photo, read_image):
    for name in ("turned.jpg", "deep.png", "transparent.png", "turned_transparent.png", "grey_alpha.png", "key.png"):
        reader(Path(f"small_{name}"))  # what is loaded once
        before = most = memory()
        watching = True
        thread = threading.Thread(target=watch)
        thread.start()
        kept = reader(Path(name))
        watching = False
        thread.join()
        del kept
        print((most - before) / (4000 * 3000))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_reading_takes_little_more_memory_than_the_pixels(tmp_path: Path) -> None:
    """Pillow's RGB takes 4 bytes a pixel, and so do its RGBA and LA: two such images are in memory at most."""
    noise = Image.effect_noise((400, 300), 60).resize((4000, 3000), Image.Resampling.NEAREST)
    colour = Image.merge("RGB", (noise, noise.rotate(180), noise))
    transparent = colour.copy()
    transparent.putalpha(noise)
    exif = Image.Exif()
    exif[274] = 6
    files: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("turned.jpg", colour, {"exif": exif}),
        ("deep.png", Image.fromarray(np.asarray(noise).astype(np.uint16) * 257), {"compress_level": 1}),
        ("transparent.png", transparent, {"compress_level": 1}),
        ("turned_transparent.png", transparent, {"compress_level": 1, "exif": exif}),
        ("grey_alpha.png", transparent.convert("LA"), {"compress_level": 1}),
        ("key.png", Image.fromarray(np.asarray(noise).astype(np.uint16) * 257), {"transparency": 7}),
    ]
    for name, image, options in files:
        image.save(tmp_path / name, **options)
        image.crop((0, 0, 20, 10)).save(tmp_path / f"small_{name}", **options)
    environment = {**os.environ, "PYTHONPATH": str(Path(diffusers_sr.__file__).parents[1])}
    environment["MALLOC_MMAP_THRESHOLD_"] = "65536"  # the C library gives back at once what is freed
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    measured = list(map(float, done.stdout.split()))
    assert len(measured) == 12
    # With the buffers of the decoders; trainers have a few bands in memory besides, of 12 MB or a byte a pixel here,
    # some of which the allocator may keep.
    assert 4 < max(measured[:6]) < 8.5, measured
    assert max(measured[6:]) < 11, measured


def test_what_must_not_be_read_is_an_error_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("in", "locked", "closed"):
        Path(folder).mkdir()
        tiny_image().save(f"{folder}/a.png")
    Path("in/a.png").chmod(0)
    Path("locked").chmod(0)
    Path("closed").chmod(0o444)  # can be listed, not entered
    with without_rights():
        locked = Path("locked")
        assert find_images([locked]).failures == [(locked, "this folder cannot be listed: Permission denied")]
        assert find_images([Path("in")]).failures == []
        assert images_in(Path("closed")) == [Path("closed/a.png")]
        for path in ("in/a.png", "closed/a.png", "locked/a.png"):
            for read in (read_photo, read_image):
                with pytest.raises(ImageFileError, match=r"Permission denied$"):
                    read(Path(path))
