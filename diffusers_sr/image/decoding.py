"""Decode any image that Pillow opens to upright RGB pixels of 8 bits: the same for users, training and measures.

`open_image` opens a file, `decode` reads its pixels, `read` does both; `to_rgb` takes an image whose pixels stay where
they are stored.
"""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ExifTags import Base

from .damage import without_damaged_chunks, without_segments
from .formats import OPENED

_FOREIGN = {
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"%PDF": "a PDF file",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile",
    b"\x01\0\0\0": "a Windows metafile",
    b"8BPS": "a Photoshop file",
    b"\0\0\x01\0": "an icon",
    b"<svg": "an SVG file",
}
"""Other kinds of files that people take for photos, by their first bytes."""
DAMAGED = "damaged metadata"
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")

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

    The block holds nothing but decoding: any error in it is taken for one of the file. Only the formats of this
    package are opened, whatever the file's suffix.

    Raises:
        ImageFileError: if there is no such file; if it is empty, too large (more than twice Pillow's
            `MAX_IMAGE_PIXELS`) or not an image; or, inside the block, if it is damaged or truncated.
    """
    with _decoding(), warnings.catch_warnings():
        # What they say of damage is in the errors and in a photo's notes, and of sizes in the error above the limit.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        if isinstance(file, bytes):
            size = len(file)
        else:
            status = os.stat(file)
            if stat.S_ISDIR(status.st_mode):
                raise ImageFileError("is a folder")
            size = status.st_size
        if size == 0:
            raise ImageFileError("the file is empty")
        with _opened(file) as image:
            yield image


def _opened(file: Path | str | bytes) -> Image.Image:
    """Open a file, if need be without its damaged metadata; `DAMAGED` in the image's `info` then says so."""
    content = without_damaged_chunks(file)
    try:
        return _open(file if content is None else content)
    except UnidentifiedImageError:
        for content in without_segments(file):
            with suppress(UnidentifiedImageError):
                image = _open(content)
                image.info[DAMAGED] = True
                return image
        raise ImageFileError(_not_an_image(file)) from None


def _open(file: Path | str | bytes) -> Image.Image:
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_formats())


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn whatever Pillow raises inside the block into an `ImageFileError`: damaged data can lead to any error."""
    try:
        yield
    except ImageFileError:
        raise
    except FileNotFoundError:
        raise ImageFileError("there is no such file") from None
    except Image.DecompressionBombError as error:
        pixels, limit = re.findall(r"\d+", str(error))[:2]
        raise ImageFileError(
            f"Image size ({pixels} pixels) exceeds limit of {limit} pixels: if the file is to be trusted, raise the "
            "limit, by the option --max-pixels of a command or by PIL.Image.MAX_IMAGE_PIXELS (half of the limit)"
        ) from error
    except MemoryError as error:
        raise ImageFileError("there is not enough memory to decode it, or it is damaged") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # their messages are meant for people
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageFileError(" ".join(reason.split()) or f"is damaged ({type(error).__name__})") from error
    except Exception as error:
        raise ImageFileError(f"is damaged ({type(error).__name__}: {' '.join(str(error).split())})") from error


@cache
def _formats() -> list[str]:
    """List the formats that are opened and that this Pillow knows."""
    Image.init()
    with suppress(ImportError):  # an extra of the user's
        import pillow_heif

        pillow_heif.register_heif_opener()
    return [name for name in OPENED if name in Image.OPEN]


def _not_an_image(file: Path | str | bytes) -> str:
    """Say what a file that no format knows is."""
    if isinstance(file, bytes):
        start = file[:16]
    else:
        with open(file, "rb") as opened:
            start = opened.read(16)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS and "HEIF" not in _formats():
        return "is a HEIF file, as of a phone: install pillow-heif to read it"
    kind = _FOREIGN.get(start[:4])
    if kind is None:
        return "is not an image that can be read"
    return f"is {kind}, not an image that can be read: those are {', '.join(OPENED)}"


def read(file: Path | str | bytes) -> Decoded:
    """Read an image file, given by its path or its contents; see `open_image` and `decode`."""
    with open_image(file) as image:
        return decode(image)


def decode(image: Image.Image) -> Decoded:
    """Decode an opened file, and turn it upright as its EXIF data says; the rest is as in `to_rgb`."""
    image.load()
    turn = _UPRIGHT.get(orientation_of(image))
    if turn is not None:
        image = _instead(image, image.transpose(turn))
    return _to_rgb(image, is_kept=False)


@_decoding()
def load(image: Image.Image) -> None:
    """Decode the pixels of an image that someone else has opened.

    Raises:
        ImageFileError: if they are damaged.
    """
    image.load()


@_decoding()
def to_rgb(image: Image.Image) -> Decoded:
    """Convert an image of any mode to RGB, without turning it upright.

    16-bit grey becomes 8 bits, and CMYK sRGB by its colour profile, if it has one.

    Raises:
        ImageFileError: if the image holds pixels of unknown range (floating-point, or 32 bits), or a CMYK image's
            profile cannot be used; or if it has not been decoded yet, and is damaged.
    """
    return _to_rgb(image, is_kept=True)


def _to_rgb(image: Image.Image, is_kept: bool) -> Decoded:
    """Convert an image; unless it is kept, its pixels are released once they are no longer needed."""
    image.load()
    icc_profile = image.info.get("icc_profile")

    def instead(new: Image.Image) -> Image.Image:
        nonlocal is_kept
        is_needed, is_kept = is_kept, is_kept and new is image
        return new if is_needed else _instead(image, new)

    image = instead(_to_8_bits(image))
    if image.has_transparency_data:
        image = instead(image if image.mode == "RGBA" else image.convert("RGBA"))
        *colours, alpha = image.split()
        if not is_kept:
            image.close()
        return Decoded(Image.merge("RGB", colours), alpha, icc_profile)
    if image.mode == "CMYK" and icc_profile is not None:
        converted, icc_profile = _to_srgb(image, icc_profile)
        image = instead(converted)
    return Decoded(instead(image if image.mode == "RGB" else image.convert("RGB")), None, icc_profile)


def _instead(old: Image.Image, new: Image.Image) -> Image.Image:
    """Give the new image, and release the pixels of the one it was made from."""
    if new is not old:
        old.close()
    return new


def on_white(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """Put an RGB image on a white background, which shows where it is transparent; the image itself is changed."""
    for box in bands(image.size):
        band = image.crop(box)
        band.putalpha(alpha.crop(box))
        image.paste(Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert("RGB"), box)
    return image


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Copy an RGB image to an array, [height, width, 3]; numpy by itself takes three times the memory meanwhile."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for box in bands(image.size):
        pixels[box[1] : box[3]] = np.asarray(image.crop(box))
    return pixels


def bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Divide an image into bands of about a million pixels, for work that needs more memory than the image."""
    width, height = size
    rows = max(1, (1 << 20) // max(width, 1))
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def upright_size(file: Path) -> tuple[int, int]:
    """Read from a file's first bytes the width and height that its image will have once it is decoded.

    Raises:
        ImageFileError: as `open_image` does.
    """
    with open_image(file) as image:
        width, height = image.size
        orientation = orientation_of(image)
        if image.format == "TIFF":  # Pillow gives its size upright or as it is stored, depending on the version
            exif = _exif(image)
            width, height = exif[Base.ImageWidth], exif[Base.ImageLength]
    return (height, width) if orientation >= 5 else (width, height)


def orientation_of(image: Image.Image) -> int:
    """Read how an opened file's pixels become upright, as EXIF data says it: from 5 on, by a quarter turn."""
    with suppress(Exception):
        _exif(image)  # Pillow raises on damage only at the first call, and keeps what it has read by then
    try:
        orientation = _exif(image).get(Base.Orientation)
    except Exception:  # damaged data can lead to any error, and costs no more than itself
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
    transparent = image.info.get("transparency")
    grey = Image.new("L" if transparent is None else "LA", image.size)
    for box in bands(image.size):
        values = np.asarray(image.crop(box)).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageFileError("holds 32-bit pixels, whose range is unknown: convert it to 8 or 16 bits")
        band = Image.fromarray(((values + 128) // 257).astype(np.uint8))
        if transparent is not None:
            band.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        grey.paste(band, box)
    return grey


def _to_srgb(image: Image.Image, icc_profile: bytes) -> tuple[Image.Image, bytes]:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        converted = ImageCms.profileToProfile(image, io.BytesIO(icc_profile), srgb, outputMode="RGB")
    except ImageCms.PyCMSError as error:
        raise ImageFileError(f"its colour profile cannot be used: {error}") from error
    return cast(Image.Image, converted), srgb.tobytes()
