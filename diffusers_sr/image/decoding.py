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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from . import kinds, tiff_kinds
from .bands import bands
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
    b"FUJI": "a camera's raw file",
    b"IIU\0": "a camera's raw file",
    b"IIRO": "a camera's raw file",
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
            if not stat.S_ISREG(status.st_mode):
                raise ImageFileError("is a pipe or a device, not a file")
            size = status.st_size
        if size == 0:
            raise ImageFileError("the file is empty")
        with _opened(file) as image:
            yield image


def _opened(file: Path | str | bytes) -> Image.Image:
    """Open a file, if need be without its damaged metadata; `DAMAGED` in the image's `info` then says so.

    `kinds.MEANING` there says what the values of a TIFF stand for, if it is not what they seem to, and `kinds.PAGES`
    how many pages it has, if Pillow does not see them.
    """
    content = without_damaged_chunks(file)
    try:
        return _opened_tiff(file) or _open(file if content is None else content)
    except UnidentifiedImageError:
        for content in without_segments(file):
            with suppress(UnidentifiedImageError):
                image = _open(content)
                image.info[DAMAGED] = True
                return image
        raise ImageFileError(_not_an_image(file)) from None


def _opened_tiff(file: Path | str | bytes) -> Image.Image | None:
    """Open a TIFF of a kind that Pillow by itself does not read, or reads wrongly."""
    fields = tiff_kinds.fields_of(file)
    if fields is None:
        return None
    if fields.is_raw():
        raise ImageFileError("is a camera's raw file, which holds no picture yet: develop it to a TIFF or JPEG first")
    readable = tiff_kinds.made_readable(file, fields)
    if readable is None:
        return None
    image = _open(readable.content)
    image.info |= {kinds.MEANING: readable.meaning, kinds.PAGES: readable.pages}
    return image


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
        return "is a HEIF file, as of a phone: install pillow-heif to read it (pip install 'diffusers-sr[heic]')"
    if (fields := tiff_kinds.fields_of(file)) is not None:
        return f"is a TIFF whose pixels are stored in a way that is not read ({fields}): save it as one of RGB or grey"
    kind = "a JPEG XL file" if start[4:8] == b"JXL " else _FOREIGN.get(start[:4])
    if kind is None:
        return "is not an image that can be read"
    return f"is {kind}, not an image that can be read: those are {', '.join(OPENED)}"


def read(file: Path | str | bytes) -> Decoded:
    """Read an image file, given by its path or its contents; see `open_image` and `decode`."""
    with open_image(file) as image:
        return decode(image)


def decode(image: Image.Image) -> Decoded:
    """Decode an opened file, and turn it upright as its EXIF data says; the rest is as in `to_rgb`."""
    return _to_rgb(upright(image), is_kept=False)


def upright(image: Image.Image) -> Image.Image:
    """Decode an opened file, and turn it upright as its EXIF data says, in the mode that it has."""
    image.load()
    turn = _UPRIGHT.get(orientation_of(image))
    return image if turn is None else _instead(image, image.transpose(turn))


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

    16-bit grey becomes 8 bits, CMYK sRGB by its colour profile, if it has one, and CIELAB sRGB.

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

    meaning = image.info.get(kinds.MEANING)
    if meaning == tiff_kinds.LAB or image.mode == "LAB":
        image, icc_profile = instead(kinds.lab_to_srgb(image)), kinds.srgb_profile()
    if meaning in tiff_kinds.GREY_WITH_ALPHA:
        image = instead(kinds.grey_with_alpha(image))
    image = instead(kinds.to_8_bits(image))
    if image.has_transparency_data:
        image = instead(image if image.mode == "RGBA" else image.convert("RGBA"))
        *colours, alpha = image.split()
        if not is_kept:
            image.close()
        return Decoded(Image.merge("RGB", colours), alpha, icc_profile)
    if image.mode == "CMYK" and icc_profile is not None:
        image, icc_profile = instead(kinds.cmyk_to_srgb(image, icc_profile)), kinds.srgb_profile()
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
