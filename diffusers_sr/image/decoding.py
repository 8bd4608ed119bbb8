"""Decode any image that Pillow opens to upright RGB pixels of 8 bits: the same for users, training and measures.

`open_image` opens a file, `decode` reads its pixels; `to_rgb` takes an image whose pixels stay where they are stored.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ExifTags import Base

EXIF_ERRORS = (SyntaxError, ValueError, TypeError, KeyError, AttributeError, struct.error)
"""All that Pillow raises on damaged EXIF data."""
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""All that Pillow's decoders raise on damaged data; EOFError and SyntaxError come from broken PNG and GIF files."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How stored pixels become upright, by the EXIF orientation; from 5 on, width and height are swapped."""


class ImageFileError(ValueError):
    """A file that cannot be read as an image, or an image that a file cannot hold; the message is the reason."""


class Decoded(NamedTuple):
    """An image as RGB."""

    image: Image.Image
    """Its colours, mode "RGB", including those of transparent pixels."""
    alpha: Image.Image | None
    """Its transparency, mode "L" and of the same size, or None if it has none."""
    icc_profile: bytes | None
    """The colour profile its colours are in."""


@contextmanager
def open_image(file: Path | str | bytes) -> Iterator[Image.Image]:
    """Open an image file, given by its path or its contents; its pixels are decoded inside the `with` block.

    Raises:
        ImageFileError: if there is no such file; if it is empty, too large (Pillow's `MAX_IMAGE_PIXELS`) or not an
            image; or, inside the block, if it is damaged or truncated.
    """
    try:
        if isinstance(file, bytes):
            size = len(file)
        else:
            status = os.stat(file)
            if stat.S_ISDIR(status.st_mode):
                raise ImageFileError("is a folder")
            size = status.st_size
        if size == 0:
            raise ImageFileError("the file is empty")
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            yield image
    except ImageFileError:
        raise
    except FileNotFoundError:
        raise ImageFileError("there is no such file") from None
    except UnidentifiedImageError:
        raise ImageFileError("is not an image that can be read") from None
    except _DECODING_ERRORS as error:
        raise ImageFileError(" ".join(str(error).split()) or type(error).__name__) from error


def decode(image: Image.Image) -> Decoded:
    """Decode an opened file, and turn it upright as its EXIF data says; the rest is as in `to_rgb`."""
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    return to_rgb(image if turn is None else image.transpose(turn))


def to_rgb(image: Image.Image) -> Decoded:
    """Convert an image of any mode to RGB, without turning it upright.

    16-bit grey becomes 8 bits, and CMYK sRGB by its colour profile, if it has one.

    Raises:
        ImageFileError: if the image holds pixels of unknown range (floating-point, or 32 bits), or a CMYK image's
            profile cannot be used.
    """
    image.load()
    icc_profile = image.info.get("icc_profile")
    image = _to_8_bits(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode == "CMYK" and icc_profile is not None:
        image, icc_profile = _to_srgb(image, icc_profile)
    return Decoded(image if image.mode == "RGB" else image.convert("RGB"), alpha, icc_profile)


def on_white(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """Put an RGB image on a white background, which shows where it is transparent."""
    image = image.copy()
    image.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def upright_size(file: Path) -> tuple[int, int]:
    """Read from a file's first bytes the width and height that its image will have once it is decoded.

    Raises:
        ImageFileError: as `open_image` does.
    """
    with open_image(file) as image:
        width, height = image.size
        orientation = _orientation(image)
        if image.format == "TIFF":  # Pillow gives its size upright or as it is stored, depending on the version
            exif = _exif(image)
            width, height = exif[Base.ImageWidth], exif[Base.ImageLength]
    return (height, width) if orientation >= 5 else (width, height)


def _orientation(image: Image.Image) -> int:
    with suppress(*EXIF_ERRORS):
        _exif(image)  # Pillow raises on damage only at the first call, and keeps what it has read by then
    try:
        orientation = _exif(image).get(Base.Orientation)
    except EXIF_ERRORS:
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _exif(image: Image.Image) -> Image.Exif:
    # Not `image.getexif()`: that of a PNG decodes its pixels first.
    return Image.Image.getexif(image)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale a single channel of more than 8 bits to 8 bits.

    Pillow itself reads three channels of 16 bits as 8.
    """
    if image.mode == "F":
        raise ImageFileError("holds floating-point pixels, whose range is unknown: convert it to 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageFileError("holds 32-bit pixels, whose range is unknown: convert it to 8 or 16 bits")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _to_srgb(image: Image.Image, icc_profile: bytes) -> tuple[Image.Image, bytes]:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        converted = ImageCms.profileToProfile(image, io.BytesIO(icc_profile), srgb, outputMode="RGB")
    except ImageCms.PyCMSError as error:
        raise ImageFileError(f"its colour profile cannot be used: {error}") from error
    return cast(Image.Image, converted), srgb.tobytes()
