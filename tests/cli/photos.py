"""A photo's metadata, and reading what a command wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from diffusers_sr.image.exif import Exif, to_bytes

ORIENTATION, MAKE, COPYRIGHT, EXIF, GPS = 274, 271, 33432, 0x8769, 0x8825
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif() -> Image.Exif:
    data = Image.Exif()
    data.update({ORIENTATION: 6, MAKE: "Maker", COPYRIGHT: "me"})
    data.get_ifd(EXIF).update({0x9003: "2020:02:20 20:20:20", 0xA002: 16, 0xA003: 12})
    data.get_ifd(GPS).update({1: "N"})
    return data


def opened_exif(exif: Exif) -> Image.Exif:
    """EXIF data as other programs read it."""
    data = Image.Exif()
    data.load(to_bytes(exif))
    return data


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def files(folder: str | Path = ".") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
