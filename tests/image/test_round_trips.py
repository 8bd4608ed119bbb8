"""Each kind of file, written without a change of size and read again: pixels and all that came with them are equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from diffusers_sr.image.exif import Exif, to_bytes
from diffusers_sr.image.reader import Photo, read_photo
from diffusers_sr.image.writer import write_photo
from tests.image.files import IPTC, RESOURCE, XMP, segment

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_APP1 = b"http://ns.adobe.com/xap/1.0/\0" + XMP


def exif() -> bytes:
    data = Image.Exif()
    data.update({271: "Maker", 305: "Software", 306: "2020:02:20 20:20:20", 282: 300.0, 283: 300.0, 296: 2})
    data.get_ifd(0x8769).update({0x9003: "2020:02:20 20:20:20", 0x829A: 0.005, 0xA002: 16, 0xA003: 12})
    data.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0)})
    return data.tobytes()


def deep(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257 + 100)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("LA" if image.mode == "L" else "RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


ROWS, COLUMNS = np.mgrid[:12, :16]
COLOUR = Image.fromarray(np.stack([ROWS * 16 + 30, COLUMNS * 12 + 20, 200 - ROWS * 4], -1).astype(np.uint8))
GREY = COLOUR.convert("L")
MPO: dict[str, Any] = {"format": "MPO", "save_all": True, "append_images": [COLOUR.resize((8, 6))]}
KINDS: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
    "JPEG": (COLOUR, ".jpg", {"quality": 98}),
    "grey JPEG": (GREY, ".jpg", {"quality": 98}),
    "MPO": (COLOUR, ".jpg", MPO),
    "PNG": (COLOUR, ".png", {}),
    "PNG with transparency": (with_alpha(COLOUR), ".png", {}),
    "grey PNG with transparency": (with_alpha(GREY), ".png", {}),
    "16-bit grey PNG": (deep(COLOUR), ".png", {}),
    "palette PNG": (COLOUR.quantize(16), ".png", {"transparency": bytes([0, 128, *[255] * 14])}),
    "bilevel PNG": (GREY.convert("1"), ".png", {}),
    "TIFF": (COLOUR, ".tif", {}),
    "TIFF with transparency": (with_alpha(COLOUR), ".tif", {}),
    "16-bit grey TIFF": (deep(COLOUR), ".tif", {}),
    "LZW TIFF": (COLOUR, ".tif", {"compression": "tiff_lzw"}),
    "WebP": (COLOUR, ".webp", {"quality": 98}),
    "WebP with transparency": (with_alpha(COLOUR), ".webp", {"lossless": True}),
    "AVIF": (COLOUR, ".avif", {"quality": 98}),
}


def facts(photo: Photo) -> dict[str, Any]:
    """All that a photo comes with, except for where values stood in its file."""
    metadata = photo.metadata
    return {
        "exif": None if metadata.exif is None else _values(metadata.exif),
        "xmp": metadata.xmp,
        "iptc": metadata.iptc,
        "profile": photo.icc_profile,
        "dpi": metadata.dpi,
        "comments": metadata.comments,
        "mode": photo.mode,
        "grey": photo.is_grey,
        "alpha": None if photo.alpha is None else np.asarray(photo.alpha).tolist(),
        "deep": None if photo.deep is None else photo.deep.colours.tolist(),
    }


def _values(exif: Exif) -> dict[Any, Any]:
    data = Image.Exif()
    data.load(to_bytes(exif))
    return {**data, "exif": dict(data.get_ifd(0x8769)), "gps": dict(data.get_ifd(0x8825))}


def _pixels(photo: Photo) -> Any:
    if photo.deep is None:
        return photo.image
    return np.ascontiguousarray(np.broadcast_to(np.atleast_3d(photo.deep.colours), (12, 16, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_everything_comes_back(tmp_path: Path, kind: str) -> None:
    image, suffix, options = KINDS[kind]
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow does not read AVIF")
    path = tmp_path / f"photo{suffix}"
    is_grey = image.mode in ("L", "LA", "1", "I;16")
    data: dict[str, Any] = {"exif": exif(), "icc_profile": SRGB}
    if suffix in (".webp", ".avif"):
        data["xmp"] = XMP
    else:
        data["dpi"] = (300, 300)
    if suffix == ".tif":
        data["tiffinfo"] = {700: XMP, 33723: IPTC, 315: "José"}
    image.save(path, **data, **options)
    if suffix == ".jpg":
        content = path.read_bytes()
        more = segment(0xE1, _APP1) + segment(0xED, b"Photoshop 3.0\0" + RESOURCE) + segment(0xFE, b"a comment")
        path.write_bytes(content[:2] + more + content[2:])
    photo = read_photo(path)
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    write_photo(first, _pixels(photo), photo)
    again = read_photo(first)
    assert facts(again) == facts(photo)
    assert [note for note in again.notes if "16 bits" not in note] == []
    assert again.metadata.exif is not None and photo.icc_profile == SRGB and photo.is_grey == is_grey
    if suffix not in (".jpg", ".webp", ".avif"):
        assert np.array_equal(np.asarray(again.image), np.asarray(photo.image))
    assert np.abs(np.asarray(again.image).astype(int) - np.asarray(photo.image)).mean() < 4
    write_photo(second, _pixels(again), again)
    assert facts(read_photo(second)) == facts(photo)
