"""Small whole files of every usual kind, made here and now."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms, features

SUFFIXES = {"JPEG": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}


def seeds() -> dict[str, tuple[str, bytes]]:
    """Make the files: by kind, the suffix and the contents."""
    colour = _colour()
    exif = Image.Exif()
    exif.update({271: "Maker", 274: 6, 306: "2020:02:20 20:20:20"})
    exif.get_ifd(0x8769).update({0x9003: "2020:02:20 20:20:20", 0x829A: (1, 60), 0xA002: 48})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = Image.fromarray(np.arange(48 * 40, dtype=np.uint16).reshape(40, 48) * 34)
    palette = colour.quantize(16)
    frames: dict[str, Any] = {"save_all": True, "append_images": [palette.rotate(90), palette.rotate(180)]}
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "PNG": (colour, "PNG", {"icc_profile": profile, "exif": exif}),
        "JPEG": (colour, "JPEG", {}),
        "progressive JPEG": (colour, "JPEG", {"progressive": True}),
        "JPEG with EXIF": (colour, "JPEG", {"exif": exif, "icc_profile": profile}),
        "CMYK JPEG": (colour.convert("CMYK"), "JPEG", {}),
        "WebP": (colour, "WEBP", {"exif": exif}),
        "lossless WebP": (colour.convert("RGBA"), "WEBP", {"lossless": True}),
        "TIFF": (colour, "TIFF", {"exif": exif}),
        "LZW TIFF": (colour, "TIFF", {"compression": "tiff_lzw"}),
        "16-bit PNG": (deep, "PNG", {}),
        "palette PNG": (palette, "PNG", {"transparency": 3}),
        "GIF": (palette, "GIF", {"transparency": 3}),
        "animated GIF": (palette, "GIF", frames),
        "BMP": (colour, "BMP", {}),
        "PPM": (colour, "PPM", {}),
        "TGA": (colour, "TGA", {"compression": "tga_rle"}),
    }
    if features.check("jpg_2000"):
        kinds["JPEG 2000"] = (colour, "JPEG2000", {})
    if features.check("avif"):
        kinds["AVIF"] = (colour, "AVIF", {"exif": exif})
    return {kind: _file(*how) for kind, how in kinds.items()}


def _colour() -> Image.Image:
    """Draw slopes, edges and noise, 48x40, so that every encoder has something to do."""
    rows, columns = np.mgrid[:40, :48]
    noise = np.random.default_rng(0).integers(0, 40, (40, 48))
    planes = (rows * 5, columns * 4 + noise, np.where((rows // 8 + columns // 8) % 2, 215, 20) + noise)
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def _file(image: Image.Image, format: str, options: dict[str, Any]) -> tuple[str, bytes]:
    file = io.BytesIO()
    image.save(file, format, **options)
    return SUFFIXES.get(format, f".{format.lower()}"), file.getvalue()
