"""Small whole files of every usual kind, made here and now."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, features

from tests.image.files import png, tiff

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
    made = {kind: _file(*how) for kind, how in kinds.items()}
    made["MPO"] = ".mpo", _file(colour, "MPO", {"save_all": True, "append_images": [palette.convert("RGB")]})[1]
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    made["Lab TIFF"] = _file(cast(Image.Image, ImageCms.applyTransform(colour, lab)), "TIFF", {})
    return made | _deep(np.asarray(colour).astype(np.uint16) * 257 + 3)


def _deep(pixels: NDArray[np.uint16]) -> dict[str, tuple[str, bytes]]:
    """Make files of 16 bits per channel, which Pillow does not write."""
    rgb, apart = pixels.astype("<u2").tobytes(), np.moveaxis(pixels, -1, 0).astype("<u2").tobytes()
    rgba = np.dstack([pixels, pixels[..., 0]]).astype(">u2").tobytes()
    size = pixels.shape[1], pixels.shape[0]
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            "16-bit RGBA PNG": Path(folder, "rgba.png"),
            "16-bit RGB TIFF": Path(folder, "rgb.tif"),
            "16-bit TIFF with channels apart": Path(folder, "apart.tif"),
            "16-bit PPM": Path(folder, "rgb.ppm"),
        }
        of_png, of_rgb, of_apart, of_ppm = paths.values()
        png(of_png, (), rgba, 16, 6, size=size)
        tiff(of_rgb, rgb, 2, 3, size=size)
        tiff(of_apart, apart, 2, 3, more={284: 2}, size=size)
        of_ppm.write_bytes(b"P6\n48 40\n65535\n" + pixels.astype(">u2").tobytes())
        return {kind: (path.suffix, path.read_bytes()) for kind, path in paths.items()}


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
