"""The kinds of pixels that files store, as RGB or grey of 8 bits: what a file's colours are in sRGB."""

from __future__ import annotations

import io
import struct
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from . import lab, tiff_kinds
from .bands import bands

MEANING = "meaning of the values"
"""Where `info` of an opened image says what its values stand for, if it is not what they seem to."""
PAGES = "pages of the file"
"""Where `info` of an opened image says how many its file has, if Pillow does not see them."""


def to_8_bits(image: Image.Image) -> Image.Image:
    """Scale a single channel of more than 8 bits to 8 bits. Pillow itself reads three channels of 16 bits as 8.

    Raises:
        ValueError: if it has pixels of unknown range: floating-point, or of 32 bits.
    """
    if image.mode == "F":
        raise ValueError("holds floating-point pixels, whose range is unknown: convert it to 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    transparent = image.info.get("transparency")
    grey = Image.new("L" if transparent is None else "LA", image.size)
    for box in bands(image.size):
        values = values_of_grey(image.crop(box), image.info.get(MEANING))
        band = Image.fromarray(((values + 128) // 257).astype(np.uint8))
        if transparent is not None:
            band.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        grey.paste(band, box)
    return grey


def values_of_grey(image: Image.Image, meaning: str | None) -> NDArray[np.int64]:
    """Give the values of a single channel of 16 bits.

    Raises:
        ValueError: if they need 32 bits.
    """
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("holds 32-bit pixels, whose range is unknown: convert it to 8 or 16 bits")
    return 65535 - values if meaning == tiff_kinds.INVERTED else values


def grey_with_alpha(image: Image.Image) -> Image.Image:
    """Take the higher bytes of grey and of its transparency out of the four channels that hold all of their bytes."""
    grey, alpha = (image.getchannel(name) for name in tiff_kinds.GREY_WITH_ALPHA[image.info[MEANING]])
    return Image.merge("LA", (grey, alpha))


def cmyk_to_srgb(image: Image.Image, icc_profile: bytes) -> Image.Image:
    """Convert the inks of an image to sRGB by its colour profile.

    Raises:
        ValueError: if the profile cannot be used.
    """
    srgb = ImageCms.createProfile("sRGB")
    try:
        converted = ImageCms.profileToProfile(image, io.BytesIO(icc_profile), cast(Any, srgb), outputMode="RGB")
    except ImageCms.PyCMSError as error:
        raise ValueError(f"its colour profile cannot be used: {error}") from error
    return cast(Image.Image, converted)


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """Convert CIELAB to sRGB: of Pillow's mode, or the higher bytes of 16 bits in its place."""
    converted = Image.new("RGB", image.size)
    for box in bands(image.size):
        values = np.asarray(image.crop(box))
        a, b = (values[..., channel].view(np.int8).astype(np.float64) for channel in (1, 2))
        colours = lab.to_srgb(values[..., 0] * (100 / 255), a, b)
        converted.paste(Image.fromarray((colours * 255).round().astype(np.uint8)), box)
    return converted


def srgb_profile() -> bytes:
    """Make the colour profile of sRGB, always the same; Little CMS dates it to the second."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]
