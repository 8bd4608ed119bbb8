"""Each kind of file through the three readers: the command line's, the trainers', and the pipeline's call."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusers_sr.data.photos import read_image
from diffusers_sr.image.decoding import ImageFileError, upright_size
from diffusers_sr.image.pixels import read_images
from diffusers_sr.image.reader import read_photo

Colours = list[list[list[float]]]  # of a row, of a pixel
ORIENTATION = 274
FLOAT_ERROR = "holds floating-point pixels, whose range is unknown: convert it to 8 or 16 bits"
INTEGER_ERROR = "holds 32-bit pixels, whose range is unknown: convert it to 8 or 16 bits"


def for_users(path: Path) -> tuple[Colours, list[list[int]] | None]:
    """Colours and transparency that the command line works on."""
    photo = read_photo(path)
    return np.asarray(photo.image).tolist(), None if photo.alpha is None else np.asarray(photo.alpha).tolist()


def for_training(path: Path) -> Colours:
    """Colours that are trained on; measures have the same reader. A shard's bytes are read as the file is."""
    pixels = read_image(path)
    assert pixels.equal(read_image(path.read_bytes()))
    return pixels.permute(1, 2, 0).tolist()


def for_pipeline(path: Path) -> Colours:
    """Colours that a pipeline makes of the image that Pillow opens, in 255ths."""
    with Image.open(path) as image:
        return (read_images(image)[0].permute(1, 2, 0) * 255).round(decimals=4).tolist()


def grey(*rows: list[int]) -> Colours:
    return [[[value] * 3 for value in row] for row in rows]


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tif", "ramp.pgm"])
def test_a_16_bit_grey_ramp_keeps_its_range(tmp_path: Path, name: str) -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(ramp).save(tmp_path / name)
    expected = grey(*np.arange(256).reshape(16, 16).tolist())
    assert for_users(tmp_path / name) == (expected, None)
    assert for_training(tmp_path / name) == expected
    assert read_image(tmp_path / name).float().mean() == 127.5
    assert for_pipeline(tmp_path / name) == expected


def test_16_bit_grey_is_rounded_to_the_nearest_of_8_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[128, 129, 1000, 65406, 65407]], np.uint16)).save(tmp_path / "deep.png")
    expected = grey([0, 1, 4, 254, 255])  # 0.498, 0.502, 3.891, 254.498 and 254.502
    assert for_users(tmp_path / "deep.png") == (expected, None)
    assert for_training(tmp_path / "deep.png") == expected
    # An array of floats needs no rounding.
    assert for_pipeline(tmp_path / "deep.png")[0][2] == pytest.approx([3.8911] * 3, abs=1e-4)


def test_transparent_16_bit_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 514]], np.uint16)).save(tmp_path / "key.png", transparency=257)
    assert for_users(tmp_path / "key.png") == (grey([0, 1, 2]), [[255, 0, 255]])
    assert for_training(tmp_path / "key.png") == grey([0, 255, 2])
    assert for_pipeline(tmp_path / "key.png") == grey([0, 255, 2])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, [[10, 20, 30], [40, 50, 60]]),
        (2, [[30, 20, 10], [60, 50, 40]]),
        (3, [[60, 50, 40], [30, 20, 10]]),
        (4, [[40, 50, 60], [10, 20, 30]]),
        (5, [[10, 40], [20, 50], [30, 60]]),
        (6, [[40, 10], [50, 20], [60, 30]]),
        (7, [[60, 30], [50, 20], [40, 10]]),
        (8, [[30, 60], [20, 50], [10, 40]]),
    ],
)
def test_files_are_turned_upright(tmp_path: Path, orientation: int, upright: list[list[int]], suffix: str) -> None:
    stored = [[10, 20, 30], [40, 50, 60]]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"photo{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(np.array(grey(*stored), np.uint8)).save(path, exif=exif, **options)
    assert for_users(path) == (grey(*upright), None)
    assert for_training(path) == grey(*upright)
    assert upright_size(path) == (len(upright[0]), len(upright))
    if suffix != ".tif":  # of which Pillow itself turns the pixels
        assert for_pipeline(path) == grey(*stored)


def test_a_phones_jpeg_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = Image.new("RGB", (32, 16), (0, 0, 0))
    stored.paste((255, 255, 255), (0, 0, 16, 16))
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=100)
    expected = grey(*[[255] * 16] * 16, *[[0] * 16] * 16)  # what was on the left comes to the top
    assert for_users(tmp_path / "photo.jpg") == (expected, None)
    assert for_training(tmp_path / "photo.jpg") == expected
    assert for_pipeline(tmp_path / "photo.jpg") == grey(*[[255] * 16 + [0] * 16] * 16)
    assert upright_size(tmp_path / "photo.jpg") == (16, 32)


def test_damaged_exif_data_turns_nothing(tmp_path: Path) -> None:
    Image.fromarray(np.array(grey([10, 20]), np.uint8)).save(tmp_path / "a.png", exif=b"Exif\0\0no TIFF header")
    assert for_users(tmp_path / "a.png") == (grey([10, 20]), None)
    assert for_training(tmp_path / "a.png") == grey([10, 20])
    assert upright_size(tmp_path / "a.png") == (2, 1)


def test_an_orientation_is_followed_if_other_exif_data_is_damaged(tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2)
    exif += struct.pack("<HHII", 271, 5, 1, 38)  # the maker's name, of a fraction's type
    exif += struct.pack("<HHIHxx", ORIENTATION, 3, 1, 6) + bytes(4) + struct.pack("<II", 1, 2)
    path = tmp_path / "photo.png"
    Image.fromarray(np.array(grey([10, 20]), np.uint8)).save(path, exif=exif)
    assert for_users(path) == (grey([10], [20]), None)
    assert for_training(path) == grey([10], [20])
    assert upright_size(path) == (1, 2)
    assert read_photo(path).notes == ["has damaged EXIF data, which is not kept"]


def test_a_size_is_read_without_the_pixels(tmp_path: Path) -> None:
    Image.effect_noise((300, 200), 90).save(tmp_path / "photo.png")
    (tmp_path / "photo.png").write_bytes((tmp_path / "photo.png").read_bytes()[:1000])
    assert upright_size(tmp_path / "photo.png") == (300, 200)


def test_transparent_parts_of_colour(tmp_path: Path) -> None:
    colours = [[[255, 0, 255], [10, 20, 30], [0, 0, 0], [100, 100, 100]]]
    alpha = [[0, 255, 51, 128]]
    image = Image.fromarray(np.array(colours, np.uint8))
    image.putalpha(Image.fromarray(np.array(alpha, np.uint8)))
    image.save(tmp_path / "cutout.png")
    # 51 of 255 are a fifth: 255 * 0.8 = 204; and 100 * 128 / 255 + 255 * 127 / 255 = 177.2.
    on_white = [[[255, 255, 255], [10, 20, 30], [204, 204, 204], [177, 177, 177]]]
    assert for_users(tmp_path / "cutout.png") == (colours, alpha)
    assert for_training(tmp_path / "cutout.png") == on_white
    assert for_pipeline(tmp_path / "cutout.png") == on_white


def test_grey_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[100, 100, 0]], np.uint8))
    image.putalpha(Image.fromarray(np.array([[255, 0, 51]], np.uint8)))
    image.save(tmp_path / "grey.png")
    assert for_users(tmp_path / "grey.png") == (grey([100, 100, 0]), [[255, 0, 51]])
    assert for_training(tmp_path / "grey.png") == grey([100, 255, 204])
    assert for_pipeline(tmp_path / "grey.png") == grey([100, 255, 204])


@pytest.mark.parametrize(
    ("name", "transparency", "alpha", "blue"),
    [("palette.png", bytes([0, 255, 128]), [[0, 255, 128]], [127, 127, 255]), ("palette.gif", 0, None, [0, 0, 255])],
)
def test_a_palette_with_transparency(
    tmp_path: Path, name: str, transparency: bytes | int, alpha: list[list[int]] | None, blue: list[int]
) -> None:
    colours = [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette(np.ravel(colours).tolist())
    image.save(tmp_path / name, transparency=transparency)
    on_white = [[[255, 255, 255], [0, 255, 0], blue]]
    assert for_users(tmp_path / name) == (colours, alpha or [[0, 255, 255]])
    assert for_training(tmp_path / name) == on_white
    assert for_pipeline(tmp_path / name) == on_white


def cmyk_profile() -> bytes:
    """Make a profile by which paper is white, and each of the four inks alone black: of two nodes an ink."""
    nodes = [(255, 128, 128), *[(0, 128, 128)] * 15]  # Lab
    identity = [65536 * (number % 4 == 0) for number in range(9)]
    table = struct.pack(">4s4xBBBx9i", b"mft1", 4, 3, 2, *identity)
    table += bytes(range(256)) * 4 + bytes(value for node in nodes for value in node) + bytes(range(256)) * 3
    start = 128 + 4 + 12
    header = struct.pack(
        ">I4sI4s4s4s12x4s", start + len(table), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp"
    )
    header = (header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0")
    return header + struct.pack(">I4sII", 1, b"A2B0", start, len(table)) + table


@pytest.mark.parametrize("has_profile", [False, True])
def test_cmyk_becomes_rgb_by_its_profile(tmp_path: Path, has_profile: bool) -> None:
    image = Image.new("CMYK", (3, 1))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 255))
    options: dict[str, Any] = {"icc_profile": cmyk_profile()} if has_profile else {}
    image.save(tmp_path / "inks.tif", **options)
    expected = [[[255, 255, 255], [0, 0, 0] if has_profile else [0, 255, 255], [0, 0, 0]]]
    assert for_users(tmp_path / "inks.tif") == (expected, None)
    assert for_training(tmp_path / "inks.tif") == expected
    assert for_pipeline(tmp_path / "inks.tif") == expected


def test_a_cmyk_profile_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    Image.new("CMYK", (3, 1)).save(tmp_path / "inks.tif", icc_profile=b"no profile")
    for read in (for_users, for_training, for_pipeline):
        with pytest.raises(ValueError, match="its colour profile cannot be used"):
            read(tmp_path / "inks.tif")


def encoded(image: Image.Image, format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), FLOAT_ERROR),
        (encoded(Image.fromarray(np.full((4, 4), 65536, np.int32)), "TIFF"), INTEGER_ERROR),
        (encoded(Image.fromarray(np.full((4, 4), -1, np.int32)), "TIFF"), INTEGER_ERROR),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:1500], "image file is truncated"),
        (b"", "the file is empty"),
        (b"text", "is not an image that can be read"),
        (None, "there is no such file"),
    ],
    ids=["floats", "more than 16 bits", "negative", "truncated", "empty", "text", "missing"],
)
def test_trainers_refuse_what_users_are_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "photo.tif"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageFileError) as for_user:
        read_photo(path)
    assert str(for_user.value).startswith(reason)
    with pytest.raises(ImageFileError) as for_trainer:
        read_image(path)
    assert str(for_trainer.value) == f"cannot be read: {for_user.value}"
