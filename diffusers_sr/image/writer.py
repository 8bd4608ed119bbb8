"""Write enlarged photographs with everything that came with them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .carriers import carry
from .decoding import ImageFileError
from .deep import in_8_bits, luminance, resized
from .deep_files import write_png, write_tiff
from .exif import add_to_tiff
from .formats import (
    HAS_QUALITY,
    HOLDS_16_BITS,
    HOLDS_METADATA,
    HOLDS_TRANSPARENCY,
    LONGEST_SIDE,
    MOST_BYTES_OF_TIFF,
    WRITABLE,
)
from .partial import remove_left_over, whole_file
from .reader import Photo, without_metadata


def prepare_folder(folder: Path) -> None:
    """Make a folder for results, and remove what killed runs left unfinished in it.

    Raises:
        ImageFileError: if nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageFileError(f"the folder {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ImageFileError(f"nothing can be written to the folder {folder}: change its permissions, or give another")
    remove_left_over(folder)


def can_write(suffix: str) -> bool:
    """Whether this Pillow writes the format of a suffix of `WRITABLE`: not all do AVIF."""
    Image.init()
    return WRITABLE[suffix.lower()][0] in Image.SAVE


def check_output(photo: Photo, path: Path, width: int, height: int) -> None:
    """Make sure, before the work is done, that a file of `path`'s format can hold a result of this size.

    Raises:
        ImageFileError: if the image would be too large for the format, or lose its transparency, profile or EXIF.
    """
    name, _ = WRITABLE[path.suffix.lower()]
    limit = LONGEST_SIDE.get(name)
    if limit and max(width, height) > limit:
        raise ImageFileError(f"{width}x{height} is too large for {name}, at most {limit} pixels a side: choose .png")
    channels = (1 if photo.mode == "L" else 3) + (photo.alpha is not None)
    if name == "TIFF" and width * height * channels * (1 if photo.deep is None else 2) > MOST_BYTES_OF_TIFF:
        raise ImageFileError(f"{width}x{height} is too large for TIFF, at most 4 GB: choose .png")
    lost = []
    if photo.alpha is not None and photo.alpha.getextrema() != (255, 255) and name not in HOLDS_TRANSPARENCY:
        lost.append("transparency")
    if photo.icc_profile is not None and name not in HOLDS_METADATA:
        lost.append("colour profile")
    if photo.metadata.exif is not None and name not in HOLDS_METADATA:
        lost.append("EXIF data")
    if lost:
        raise ImageFileError(f"{name} cannot hold its {' and '.join(lost)}: choose .png for the output")


def unkept(photo: Photo, path: Path, width: int, height: int, record: str | None = None) -> list[str]:
    """Say what a file of `path`'s format keeps of 16 bits, and what it cannot carry of the metadata and the record."""
    name, _ = WRITABLE[path.suffix.lower()]
    said = []
    if photo.deep is not None:
        is_kept = "which the result keeps" if name in HOLDS_16_BITS else f"of which {name} keeps 8"
        said.append(f"has 16 bits per channel, {is_kept}")
    lost = dict.fromkeys(carry(photo.metadata, name, (width, height), record).lost)
    return [*said, f"its {', '.join(lost)}: not kept, because {name} cannot hold that"] if lost else said


def write_photo(
    path: Path,
    image: Image.Image | NDArray[np.uint16],
    photo: Photo,
    quality: int | None = None,
    record: str | None = None,
) -> None:
    """Write the enlarged pixels of `photo`, with its transparency (enlarged bicubically), profile and metadata.

    A grey photograph stays grey. The file appears once it is complete and replaces what was there.

    Args:
        path: output file; its suffix, one of `WRITABLE`, says which format.
        image: enlarged RGB pixels, or `[height, width, 3]` of a photograph of 16 bits, which a PNG or TIFF keeps.
        photo: the photograph that the pixels were made from.
        quality: that of the compression, from 1 to 100, or None for `WRITABLE`'s; formats without it are not affected.
        record: the settings that the pixels were made with, an ASCII text, for the metadata.

    Raises:
        ImageFileError: if the file cannot be written.
    """
    name, options = WRITABLE[path.suffix.lower()]
    if quality is not None and name in HAS_QUALITY:
        options = options | {"quality": quality}
    try:
        pixels = _with_16_bits(image, photo) if name in HOLDS_16_BITS else None
        if pixels is None:
            pixels = _with_8_bits(image, photo, name in HOLDS_TRANSPARENCY)
        size = pixels.size if isinstance(pixels, Image.Image) else (pixels.shape[1], pixels.shape[0])
        carried = carry(photo.metadata, name, size, record)
        if photo.icc_profile is not None:
            options = options | {"icc_profile": photo.icc_profile}
        with whole_file(path) as temporary:
            if isinstance(pixels, Image.Image):
                pixels.save(temporary, format=name, **options, **carried.options)
            elif name == "PNG":
                write_png(temporary, pixels, **options, **carried.options)
            else:
                write_tiff(temporary, pixels, **options)
            if name == "TIFF" and (carried.exif or carried.tags):
                with temporary.open("r+b") as file:
                    add_to_tiff(file, carried.exif, carried.tags)
    except MemoryError as error:
        raise ImageFileError(f"{path} cannot be written: there is not enough memory") from error
    except Exception as error:  # Pillow's encoders, too, raise anything on metadata they cannot write
        raise ImageFileError(f"{path} cannot be written: {error}") from error


def _with_8_bits(image: Image.Image | NDArray[np.uint16], photo: Photo, has_alpha: bool) -> Image.Image:
    if not isinstance(image, Image.Image):
        image = in_8_bits(image)
    if photo.is_grey:
        image = image.convert("L").convert(photo.mode)
    if photo.alpha is not None and has_alpha:
        image = image.copy()
        image.putalpha(photo.alpha.resize(image.size, Image.Resampling.BICUBIC))
    return image


def _with_16_bits(image: Image.Image | NDArray[np.uint16], photo: Photo) -> Image.Image | NDArray[np.uint16] | None:
    """Give grey as an image, which Pillow writes; None if there are 8 bits."""
    if isinstance(image, Image.Image) or photo.deep is None:
        return None
    if photo.is_grey:
        grey = luminance(image)
        if photo.mode == "L":
            return Image.fromarray(grey)
        image = np.repeat(grey[..., None], 3, axis=-1)
    if photo.deep.alpha is None:
        return image
    return np.dstack([image, resized(photo.deep.alpha, (image.shape[1], image.shape[0]))])


def write_comparison(path: Path, image: Image.Image | NDArray[np.uint16], photo: Photo) -> None:
    """Write a photograph, enlarged bicubically, and to the right of it the enlarged pixels, without metadata.

    Args:
        path: a PNG file, of 8 bits per channel.
        image: enlarged RGB pixels, or `[height, width, 3]` of 16 bits.
        photo: the photograph that the pixels were made from.

    Raises:
        ImageFileError: if the file cannot be written.
    """
    if not isinstance(image, Image.Image):
        image = in_8_bits(image)
    both = Image.new("RGB", (2 * image.width, image.height))
    both.paste(photo.image.resize(image.size, Image.Resampling.BICUBIC))
    both.paste(image, (image.width, 0))
    alpha = None
    if photo.alpha is not None:
        alpha = Image.new("L", both.size)
        for left in (0, image.width):
            alpha.paste(photo.alpha.resize(image.size, Image.Resampling.BICUBIC), (left, 0))
    write_photo(path, both, replace(without_metadata(photo), alpha=alpha))
