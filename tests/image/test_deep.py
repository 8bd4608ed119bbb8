"""16 bits per channel, from files to files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.image.deep import in_8_bits, in_16_bits
from diffusers_sr.image.depth import bits_of
from diffusers_sr.image.reader import Photo, read_photo
from diffusers_sr.image.transparency import shown
from diffusers_sr.image.writer import check_output, unkept, write_comparison, write_photo
from tests.image.files import png, tiff

VALUES = np.random.default_rng(0).integers(0, 65536, (12, 16, 4), dtype=np.uint16)
COLOURS, GREY, ALPHA = VALUES[..., :3], VALUES[..., 0], VALUES[..., 3]
WITH_ALPHA = np.dstack([GREY, ALPHA])
KEY = (300, 40000, 5)
KEYED = np.where(VALUES[..., 3:] < 20000, np.array(KEY, np.uint16), COLOURS)
MULTIPLIED = np.dstack([COLOURS.astype(np.int64) * ALPHA[..., None] // 65535, ALPHA]).astype(np.uint16)


def big(values: np.ndarray) -> bytes:
    return values.astype(">u2").tobytes()


def little(values: np.ndarray) -> bytes:
    return values.astype("<u2").tobytes()


def make(path: Path, kind: str) -> None:
    """Write a file of a kind, in which the values are those of the arrays above."""
    apart = np.moveaxis(COLOURS, -1, 0)
    {
        "RGB PNG": lambda: png(path, pixels=big(COLOURS), depth=16, kind=2),
        "RGBA PNG": lambda: png(path, pixels=big(VALUES), depth=16, kind=6),
        "grey PNG": lambda: png(path, pixels=big(GREY), depth=16, kind=0),
        "keyed PNG": lambda: png(path, [(b"tRNS", struct.pack(">HHH", *KEY))], big(KEYED), 16, 2),
        "RGB TIFF": lambda: tiff(path, little(COLOURS), 2, 3),
        "RGB TIFF, high bytes first": lambda: tiff(path, big(COLOURS), 2, 3, ">"),
        "RGB TIFF and more": lambda: tiff(path, little(VALUES), 2, 4, more={338: 0}),
        "RGB TIFF, channels apart": lambda: tiff(path, little(apart), 2, 3, more={284: 2}),
        "RGBA TIFF": lambda: tiff(path, little(VALUES), 2, 4, more={338: 2}),
        "grey TIFF": lambda: tiff(path, little(GREY), 1),
        "grey TIFF, high bytes first": lambda: tiff(path, big(GREY), 1, order=">"),
        "inverted TIFF": lambda: tiff(path, little(65535 - GREY), 0),
        "inverted TIFF, high bytes first": lambda: tiff(path, big(65535 - GREY), 0, order=">"),
        "BigTIFF, channels apart": lambda: tiff(path, little(apart), 2, 3, more={284: 2}, big=True),
        "BigTIFF, high bytes first": lambda: tiff(path, big(VALUES), 2, 4, ">", {338: 2}, big=True),
        "inverted BigTIFF": lambda: tiff(path, little(65535 - GREY), 0, big=True),
        "PPM": lambda: path.write_bytes(b"P6\n16 12\n65535\n" + big(COLOURS)),
    }[kind]()


KINDS = {
    "RGB PNG": (COLOURS, None),
    "RGBA PNG": (COLOURS, ALPHA),
    "grey PNG": (GREY, None),
    "keyed PNG": (KEYED, np.where(ALPHA < 20000, 0, 65535)),
    "RGB TIFF": (COLOURS, None),
    "RGB TIFF, high bytes first": (COLOURS, None),
    "RGB TIFF and more": (COLOURS, None),
    "RGB TIFF, channels apart": (COLOURS, None),
    "RGBA TIFF": (COLOURS, ALPHA),
    "grey TIFF": (GREY, None),
    "grey TIFF, high bytes first": (GREY, None),
    "inverted TIFF": (GREY, None),
    "inverted TIFF, high bytes first": (GREY, None),
    "BigTIFF, channels apart": (COLOURS, None),
    "BigTIFF, high bytes first": (COLOURS, ALPHA),
    "inverted BigTIFF": (GREY, None),
    "PPM": (COLOURS, None),
}


def assert_is(photo: Photo, colours: np.ndarray, alpha: np.ndarray | None) -> None:
    assert photo.deep is not None
    assert np.array_equal(photo.deep.colours, colours)
    if alpha is None:
        assert photo.deep.alpha is None and photo.alpha is None
    else:
        assert photo.deep.alpha is not None and np.array_equal(photo.deep.alpha, alpha)
    assert np.array_equal(
        np.asarray(photo.image), np.broadcast_to((np.atleast_3d(colours).astype(int) + 128) // 257, (12, 16, 3))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_read_and_written_whole(tmp_path: Path, kind: str) -> None:
    colours, alpha = KINDS[kind]
    make(tmp_path / "photo", kind)
    photo = read_photo(tmp_path / "photo")
    assert_is(photo, colours, alpha)
    assert photo.mode == ("L" if colours.ndim == 2 else "RGB")
    result = np.ascontiguousarray(np.broadcast_to(np.atleast_3d(colours), (12, 16, 3)))
    for name in ("result.png", "result.tif"):
        write_photo(tmp_path / name, result, photo)
        assert_is(read_photo(tmp_path / name), colours, alpha)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_a_compressed_tiff_is_read_whole(tmp_path: Path, predictor: int, order: str) -> None:
    values = VALUES.copy()
    if predictor == 2:  # differences along rows
        values[:, 1:] -= VALUES[:, :-1]
    stored = zlib.compress(values.astype(order + "u2").tobytes())
    tiff(tmp_path / "photo.tif", stored, 2, 4, order, {259: 8, 317: predictor, 338: 2})
    assert_is(read_photo(tmp_path / "photo.tif"), COLOURS, ALPHA)


def test_a_compressed_tiff_with_channels_apart_is_read_in_8_bits(tmp_path: Path) -> None:
    stored = zlib.compress(little(GREY))
    tiff(tmp_path / "photo.tif", stored * 3, 2, 3, more={259: 8, 284: 2})
    content = (tmp_path / "photo.tif").read_bytes()
    size, start = len(stored), len(content)
    places = struct.pack("<6I", 8, 8 + size, 8 + 2 * size, size, size, size)
    for tag, number, place in ((273, 8, start), (279, 3 * size, start + 12)):
        content = content.replace(struct.pack("<HHII", tag, 4, 1, number), struct.pack("<HHII", tag, 4, 3, place))
    (tmp_path / "photo.tif").write_bytes(content + places)
    photo = read_photo(tmp_path / "photo.tif")
    assert photo.deep is None and photo.notes == ["has 16 bits per channel, of which 8 are read"]
    assert np.array_equal(np.asarray(photo.image)[..., 0], GREY >> 8)


def test_cmyk_is_read_in_8_bits_which_is_said(tmp_path: Path) -> None:
    tiff(tmp_path / "photo.tif", little(VALUES), 5, 4)
    photo = read_photo(tmp_path / "photo.tif")
    assert photo.deep is None and photo.notes == [
        "has 16 bits per channel, of which 8 are read",
        "has colours that are not RGB; those of the result are sRGB",
    ]


def pages(path: Path, number: int, **options: Any) -> None:
    """Write a TIFF whose directory is followed by others: itself, further behind."""
    tiff(path, **options)
    content = path.read_bytes()
    width, form = (8, "<Q") if options.get("big") else (4, "<I")
    first = int.from_bytes(content[width : 2 * width], "little")
    directory = content[first:-width]
    for _ in range(number - 1):
        content = content[:-width] + struct.pack(form, len(content)) + directory + bytes(width)
    path.write_bytes(content)


@pytest.mark.parametrize("big", [False, True])
def test_pages_of_a_tiff_that_is_made_readable_are_counted(tmp_path: Path, big: bool) -> None:
    pages(tmp_path / "scan.tif", 3, pixels=little(65535 - GREY), photometric=0, big=big)
    photo = read_photo(tmp_path / "scan.tif")
    assert photo.deep is not None and np.array_equal(photo.deep.colours, GREY)
    assert photo.notes == ["has 3 frames; only the first is taken"]


def test_colours_multiplied_by_their_transparency_are_divided(tmp_path: Path) -> None:
    tiff(tmp_path / "photo.tif", little(MULTIPLIED), 2, 4, more={338: 1})
    photo = read_photo(tmp_path / "photo.tif")
    assert photo.deep is not None
    visible = ALPHA > 6553  # a tenth: rounding down by up to 1 becomes 10
    assert np.abs(photo.deep.colours.astype(int) - COLOURS)[visible].max() <= 10


@pytest.mark.parametrize("order", ["<", ">"])
def test_grey_with_transparency_is_read_and_written_with_8_bits(tmp_path: Path, order: str) -> None:
    png(tmp_path / "photo.png", pixels=big(WITH_ALPHA), depth=16, kind=4)
    tiff(tmp_path / "photo.tif", WITH_ALPHA.astype(order + "u2").tobytes(), 1, 2, order, {338: 2})
    for name in ("photo.png", "photo.tif"):
        photo = read_photo(tmp_path / name)
        assert (photo.mode, photo.deep) == ("L", None)
        assert photo.notes == ["has 16 bits per channel, of which 8 are read"]
        assert np.array_equal(np.asarray(photo.image)[..., 0], GREY >> 8)
        assert photo.alpha is not None and np.array_equal(np.asarray(photo.alpha), ALPHA >> 8)
        write_photo(tmp_path / f"result_{name}", photo.image, photo)
        with Image.open(tmp_path / f"result_{name}") as image:
            assert image.mode == "LA"


def test_a_turned_photo_is_upright_in_16_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    png(tmp_path / "photo.png", [(b"eXIf", exif.tobytes()[6:])], big(VALUES), 16, 6)
    tiff(tmp_path / "photo.tif", little(VALUES), 2, 4, more={338: 2, 274: 6})
    for name in ("photo.png", "photo.tif"):
        deep = read_photo(tmp_path / name).deep
        assert deep is not None and deep.alpha is not None
        assert np.array_equal(deep.colours, np.rot90(COLOURS, -1))
        assert np.array_equal(deep.alpha, np.rot90(ALPHA, -1))


def lab(path: Path, deep: bool) -> np.ndarray:
    """Write colours of sRGB as CIELAB, by Little CMS; give them."""
    colours = np.array([[[200, 30, 40], [60, 200, 90], [30, 60, 200], [128, 128, 128]]], np.uint8)
    srgb, cielab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.applyTransform(Image.fromarray(colours), ImageCms.buildTransform(srgb, cielab, "RGB", "LAB"))
    assert image is not None
    if not deep:
        image.save(path)
        return colours
    values = np.asarray(image)
    a, b = values[..., 1:].view(np.int8).transpose(2, 0, 1).astype(np.int16) * 256
    wide = np.stack([values[..., 0].astype(np.uint16) * 257, a.view(np.uint16), b.view(np.uint16)], -1)
    tiff(path, little(wide), 8, 3, size=(4, 1))
    return colours


@pytest.mark.parametrize("deep", [False, True])
def test_lab_becomes_srgb(tmp_path: Path, deep: bool) -> None:
    colours = lab(tmp_path / "photo.tif", deep)
    photo = read_photo(tmp_path / "photo.tif")
    assert np.abs(np.asarray(photo.image).astype(int) - colours).max() <= 3  # of a* and b* in whole numbers
    assert photo.notes == ["has colours that are not RGB; those of the result are sRGB"]
    assert photo.icc_profile is not None and "sRGB".encode("utf-16-be") in photo.icc_profile
    assert photo.icc_profile[24:36] == struct.pack(">6H", 2000, 1, 1, 0, 0, 0)  # two runs write the same files
    assert (photo.deep is not None) == deep


def test_a_ramp_keeps_its_levels_and_is_said_to(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    png(tmp_path / "ramp.png", pixels=big(ramp), depth=16, kind=0, size=(256, 256))
    photo = read_photo(tmp_path / "ramp.png")
    result = np.repeat(ramp[..., None], 3, axis=-1)
    for name, said in (("big.png", "which the result keeps"), ("big.webp", "of which WEBP keeps 8")):
        write_photo(tmp_path / name, result, photo)
        assert unkept(photo, tmp_path / name, 256, 256) == [f"has 16 bits per channel, {said}"]
    with Image.open(tmp_path / "big.png") as image:
        assert image.mode == "I;16" and np.array_equal(np.asarray(image), ramp)


def test_grey_stored_as_colour_stays_both(tmp_path: Path) -> None:
    tiff(tmp_path / "grey.tif", little(np.repeat(GREY[..., None], 3, -1)), 2, 3)
    photo = read_photo(tmp_path / "grey.tif")
    assert photo.is_grey and photo.mode == "RGB"
    write_photo(tmp_path / "result.png", COLOURS, photo)
    deep = read_photo(tmp_path / "result.png").deep
    assert deep is not None and deep.colours.ndim == 3 and deep.is_grey()
    assert deep.colours[0, 0, 0] == round(COLOURS[0, 0].astype(float) @ (0.299, 0.587, 0.114))
    nearly = np.repeat(GREY[..., None] // 257 * 257, 3, -1)
    nearly[0, 0, 0] ^= 1  # which 8 bits do not show
    tiff(tmp_path / "nearly.tif", little(nearly), 2, 3)
    assert not read_photo(tmp_path / "nearly.tif").is_grey


def test_the_model_sees_16_bits_except_under_transparency(tmp_path: Path) -> None:
    values = np.full((12, 16, 4), 4660, np.uint16)
    values[:, 8:, :3], values[:, 8:, 3] = 0, 0
    values[:, :8, 3] = 65535
    png(tmp_path / "photo.png", pixels=big(values), depth=16, kind=6)
    pixels = np.asarray(shown(read_photo(tmp_path / "photo.png")))
    assert (pixels[:, :8] == 4660).all()
    assert np.abs(pixels[:, 8:].astype(int) - 4660).max() <= 2 * 257  # filled in 8 bits


def test_a_comparison_and_other_formats_have_8_bits(tmp_path: Path) -> None:
    png(tmp_path / "photo.png", pixels=big(COLOURS), depth=16, kind=2)
    photo = read_photo(tmp_path / "photo.png")
    write_comparison(tmp_path / "both.png", COLOURS, photo)
    write_photo(tmp_path / "big.bmp", COLOURS, photo)
    with Image.open(tmp_path / "both.png") as both, Image.open(tmp_path / "big.bmp") as single:
        assert both.size == (32, 12)
        assert np.array_equal(np.asarray(both)[:, 16:], np.asarray(single))
        assert np.array_equal(np.asarray(single), (COLOURS.astype(int) + 128) // 257)


def test_rounding() -> None:
    assert in_16_bits(np.array([[0.0, 0.5, 1.0, 1.001, -0.1, 1 / 65535]])).tolist() == [[0, 32768, 65535, 65535, 0, 1]]
    assert np.asarray(in_8_bits(np.array([[0, 128, 129, 65406, 65407]], np.uint16))).tolist() == [[0, 0, 1, 254, 255]]


def test_a_tiff_of_more_than_4_gb_is_refused_before_the_work(tmp_path: Path) -> None:
    png(tmp_path / "photo.png", pixels=big(COLOURS), depth=16, kind=2)
    photo = read_photo(tmp_path / "photo.png")
    check_output(photo, Path("big.tif"), 20000, 30000)
    with pytest.raises(ImageFileError, match="30000x30000 is too large for TIFF, at most 4 GB"):
        check_output(photo, Path("big.tif"), 30000, 30000)
    check_output(photo, Path("big.png"), 30000, 30000)


@pytest.mark.parametrize(
    ("photometric", "samples", "more", "reason"),
    [
        (32803, 1, {}, "is a TIFF whose pixels are stored in a way that is not read (16 bits, photometric 32803, "),
        (2, 3, {284: 2, 257: 13}, "is damaged: its channels do not have the size of the image"),
        (2, 3, {50706: 1}, "is a camera's raw file, which holds no picture yet: develop it to a TIFF or JPEG first"),
        (2, 3, {254: 1, 330: 8}, "is a camera's raw file"),
    ],
)
def test_tiffs_that_are_not_read_say_why(
    tmp_path: Path, photometric: int, samples: int, more: dict[int, int], reason: str
) -> None:
    tiff(tmp_path / "photo.tif", little(VALUES[..., :samples]), photometric, samples, more=more)
    with pytest.raises(ImageFileError) as error:
        read_photo(tmp_path / "photo.tif")
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize(
    ("format", "content", "bits"),
    [
        ("AVIF", b"\0\0\0\x10pixi\0\0\0\0\3\x0a\x0a\x0a", 10),
        ("AVIF", b"\0\0\0\x10pixi\0\0\0\0\3\x08\x08\x08", 8),
        ("HEIF", b"\0\0\0\x0epixi\0\0\0\0\1\x08\0\0\0\x10pixi\0\0\0\0\3\x0c\x0c\x0c", 12),
        ("HEIF", b"pixi\0\0", 8),
        ("JPEG2000", b"\xff\x4f\xff\x51" + bytes(38) + b"\x0f", 16),
        ("JPEG2000", b"\xff\x4f\xff\x51" + bytes(38) + b"\x87", 8),
        ("JPEG2000", b"\xff\x4f\xff\x51", 8),
        ("PNG", b"pixi\0\0\0\0\3\x0a\x0a\x0a", 8),
    ],
)
def test_more_bits_of_formats_of_which_8_are_read(tmp_path: Path, format: str, content: bytes, bits: int) -> None:
    (tmp_path / "photo").write_bytes(b"head" + content)
    assert bits_of(tmp_path / "photo", format) == bits
