"""Write enlarged photographs with everything that came with them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from PIL import Image

from .carriers import carry
from .decoding import ImageFileError
from .exif import add_to_tiff
from .formats import HAS_QUALITY, HOLDS_METADATA, HOLDS_TRANSPARENCY, LONGEST_SIDE, WRITABLE
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
    """Say what a file of `path`'s format cannot carry of the metadata and the record: no line, or one."""
    name, _ = WRITABLE[path.suffix.lower()]
    lost = dict.fromkeys(carry(photo.metadata, name, (width, height), record).lost)
    return [f"its {', '.join(lost)}: not kept, because {name} cannot hold that"] if lost else []


def write_photo(
    path: Path, image: Image.Image, photo: Photo, quality: int | None = None, record: str | None = None
) -> None:
    """Write the enlarged pixels of `photo`, with its transparency (enlarged bicubically), profile and metadata.

    A grey photograph stays grey. The file appears once it is complete and replaces what was there.

    Args:
        path: output file; its suffix, one of `WRITABLE`, says which format.
        image: enlarged RGB pixels.
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
        if photo.is_grey:
            image = image.convert("L").convert(photo.mode)
        if photo.alpha is not None and name in HOLDS_TRANSPARENCY:
            image = image.copy()
            image.putalpha(photo.alpha.resize(image.size, Image.Resampling.BICUBIC))
        carried = carry(photo.metadata, name, image.size, record)
        if photo.icc_profile is not None:
            options = options | {"icc_profile": photo.icc_profile}
        with whole_file(path) as temporary:
            image.save(temporary, format=name, **options, **carried.options)
            if name == "TIFF" and (carried.exif or carried.tags):
                with temporary.open("r+b") as file:
                    add_to_tiff(file, carried.exif, carried.tags)
    except MemoryError as error:
        raise ImageFileError(f"{path} cannot be written: there is not enough memory") from error
    except Exception as error:  # Pillow's encoders, too, raise anything on metadata they cannot write
        raise ImageFileError(f"{path} cannot be written: {error}") from error


def write_comparison(path: Path, image: Image.Image, photo: Photo) -> None:
    """Write a photograph, enlarged bicubically, and to the right of it the enlarged pixels, without metadata.

    Args:
        path: a PNG file.
        image: enlarged RGB pixels.
        photo: the photograph that the pixels were made from.

    Raises:
        ImageFileError: if the file cannot be written.
    """
    both = Image.new("RGB", (2 * image.width, image.height))
    both.paste(photo.image.resize(image.size, Image.Resampling.BICUBIC))
    both.paste(image, (image.width, 0))
    alpha = None
    if photo.alpha is not None:
        alpha = Image.new("L", both.size)
        for left in (0, image.width):
            alpha.paste(photo.alpha.resize(image.size, Image.Resampling.BICUBIC), (left, 0))
    write_photo(path, both, replace(without_metadata(photo), alpha=alpha))
