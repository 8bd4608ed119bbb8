"""Which files to enlarge; reading photographs from them, and writing the results with all that came with them."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

# How each format is written. High quality: what was just restored should not be lost to compression. (TIFF is not
# compressed at all, because libtiff cannot write EXIF directories through Pillow.)
FORMATS = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jfif": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".bmp": ("BMP", {}),
}
READABLE = {*FORMATS, ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif", ".heic", ".heif"}
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}
HOLDS_TRANSPARENCY = ("PNG", "WEBP", "TIFF")
HOLDS_METADATA = ("PNG", "JPEG", "WEBP", "TIFF")

DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""Whatever Pillow's decoders raise on damaged data; EOFError and SyntaxError come from broken PNG and GIF files."""

# What a TIFF's first directory says about the photograph; the rest of it says how that one file stores its pixels.
_DESCRIPTIVE_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)
_ORIENTATION = 0x0112
_EXIF_DIRECTORY, _GPS_DIRECTORY = 0x8769, 0x8825
_PIXEL_X_DIMENSION, _PIXEL_Y_DIMENSION = 0xA002, 0xA003


class ImageFileError(Exception):
    """A file that cannot be read as an image, or an image that a file cannot hold; the message is the reason."""


@dataclass
class Photo:
    """A photograph as it was read.

    Args:
        image: Its pixels, RGB, turned upright as its EXIF says.
        alpha: Its transparency, mode "L" and of the same size, or None if it has none.
        mode: "L" if the file stores one channel of grey, otherwise "RGB".
        is_grey: Whether it has no colour, in whatever mode it is stored.
        icc_profile: The colour profile its pixels are in.
        exif: Its EXIF data without the orientation, which has been applied.
        notes: What of the file is not kept, in words.
    """

    image: Image.Image
    alpha: Image.Image | None
    mode: str
    is_grey: bool
    icc_profile: bytes | None
    exif: Image.Exif | None
    notes: list[str] = field(default_factory=list)


def plan_outputs(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """Pair every input file with the file its result goes to, all of them different, none of them an input.

    Args:
        inputs: Files, and folders whose images are taken.
        output: A file, if the only input is a file and `output` has the suffix of an image; otherwise a folder.

    Raises:
        ValueError: If `output` is a file but has to be a folder, or a result would overwrite an input.
    """
    found = [source for path in inputs for source in (images_in(path) if path.is_dir() else [path])]
    sources = list({os.path.abspath(source): source for source in found}.values())
    # Those that keep their name first, so that none loses it to one that has to be renamed.
    sources.sort(key=lambda source: source.suffix.lower() not in FORMATS)
    names_a_file = output.suffix.lower() in FORMATS and not output.is_dir()
    if names_a_file and len(inputs) == 1 and not inputs[0].is_dir():
        outputs = [(sources[0], output)]
    elif names_a_file or output.is_file():
        raise ValueError(f"{output} is a file, but results of several files or of a folder go to a folder: name one")
    else:
        outputs = []
        taken: set[str] = set()
        for source in sources:
            suffix = source.suffix if source.suffix.lower() in FORMATS else ".png"
            name, number = f"{source.stem}{suffix}", 1
            while name.lower() in taken:  # some file systems do not tell A from a
                number += 1
                name = f"{source.stem}_{number}{suffix}"
            taken.add(name.lower())
            outputs.append((source, output / name))
    resolved = {source.resolve() for source in sources}
    for source, target in outputs:
        if target.resolve() in resolved:
            raise ValueError(f"the result of {source} would overwrite the input {target}: choose another output")
    return outputs


def images_in(folder: Path) -> list[Path]:
    """List the files of a folder that have an image's suffix and are not hidden, by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in READABLE and not path.name.startswith(".") and path.is_file()
    )


def read_photo(path: Path) -> Photo:
    """Read an image file of any kind Pillow knows. CMYK becomes sRGB by its profile; 16 bits a channel become 8.

    Raises:
        ImageFileError: If there is no such file, or it is empty, damaged, truncated, no image, too large (Pillow's
            `MAX_IMAGE_PIXELS`), or holds floating-point pixels.
    """
    if path.is_dir():
        raise ImageFileError("is a folder")
    try:
        if path.stat().st_size == 0:
            raise ImageFileError("the file is empty")
        with Image.open(path) as image:
            return _photo(image)
    except FileNotFoundError:
        raise ImageFileError("there is no such file") from None
    except UnidentifiedImageError:
        raise ImageFileError("is not an image that can be read") from None
    except DECODING_ERRORS as error:
        raise ImageFileError(" ".join(str(error).split()) or type(error).__name__) from error


def check_output(photo: Photo, path: Path, width: int, height: int) -> None:
    """Make sure, before the work is done, that a file of `path`'s format can hold a result of this size.

    Raises:
        ImageFileError: If the image would be too large for the format, or lose its transparency, profile or EXIF.
    """
    name, _ = FORMATS[path.suffix.lower()]
    limit = LONGEST_SIDE.get(name)
    if limit and max(width, height) > limit:
        raise ImageFileError(f"{width}x{height} is too large for {name}, which ends at {limit} pixels: choose .png")
    lost = []
    if photo.alpha is not None and photo.alpha.getextrema() != (255, 255) and name not in HOLDS_TRANSPARENCY:
        lost.append("transparency")
    if photo.icc_profile is not None and name not in HOLDS_METADATA:
        lost.append("colour profile")
    if photo.exif is not None and name not in HOLDS_METADATA:
        lost.append("EXIF data")
    if lost:
        raise ImageFileError(f"{name} cannot hold its {' and '.join(lost)}: choose .png for the output")


def write_photo(path: Path, image: Image.Image, photo: Photo) -> None:
    """Write the enlarged pixels of `photo`, with its transparency (enlarged bicubically), profile and EXIF.

    A grey photograph stays grey. The file appears once it is complete and replaces what was there.

    Args:
        path: Output file; its suffix, one of `FORMATS`, says which format.
        image: Enlarged RGB pixels.
        photo: What the pixels were made of.

    Raises:
        ImageFileError: If the file cannot be written.
    """
    name, options = FORMATS[path.suffix.lower()]
    if photo.is_grey:
        image = image.convert("L").convert(photo.mode)
    if photo.alpha is not None and name in HOLDS_TRANSPARENCY:
        image = image.copy()
        image.putalpha(photo.alpha.resize(image.size, Image.Resampling.BICUBIC))
    metadata: dict[str, bytes] = {}
    if photo.icc_profile is not None:
        metadata["icc_profile"] = photo.icc_profile
    if photo.exif is not None:
        metadata["exif"] = _resized_exif(photo.exif, image.size)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        image.save(temporary, format=name, **options, **metadata)
        temporary.replace(path)
    except (OSError, ValueError) as error:
        raise ImageFileError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _photo(image: Image.Image) -> Photo:
    notes = []
    if _is_deep(image):
        notes.append("has 16 bits a channel; the output has 8")
    # The further frames of an MPO are a camera's previews of the first.
    frames = getattr(image, "n_frames", 1)
    if image.format != "MPO" and frames > 1:
        notes.append(f"has {frames} frames; only the first is taken")
    exif = _read_exif(image)  # before the pixels: Pillow closes a TIFF once it has those
    image.load()
    icc_profile = image.info.get("icc_profile")
    pixels = image
    if exif is None:
        notes.append("has damaged EXIF data, which is not kept")
    else:
        pixels = ImageOps.exif_transpose(image)
        exif.pop(_ORIENTATION, None)
    pixels = _to_8_bits(pixels)
    alpha = None
    if pixels.has_transparency_data:
        pixels = pixels.convert("RGBA")
        alpha = pixels.getchannel("A")
    if pixels.mode == "CMYK":
        pixels, icc_profile = _to_srgb(pixels, icc_profile)
    pixels = pixels.convert("RGB")
    red, green, blue = (np.asarray(channel) for channel in pixels.split())
    mode = "L" if image.mode in ("1", "L", "LA") or image.mode.startswith("I") else "RGB"
    return Photo(
        image=pixels,
        alpha=alpha,
        mode=mode,
        is_grey=mode == "L" or (np.array_equal(red, green) and np.array_equal(red, blue)),
        icc_profile=icc_profile,
        exif=exif if exif and len(exif) else None,
        notes=notes,
    )


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits a channel; only known before the pixels are loaded."""
    for codec, _, _, options in getattr(image, "tile", ()):
        raw_mode, *others = (options,) if isinstance(options, str) else options or ("",)
        if str(raw_mode).endswith((";16B", ";16L", ";16N")) or (codec == "ppm" and others[0] > 255):
            return True
    return image.mode.startswith("I")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale one channel of more than 8 bits to 8. (Pillow itself reads three channels of 16 bits as 8.)"""
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


def _to_srgb(image: Image.Image, icc_profile: bytes | None) -> tuple[Image.Image, bytes | None]:
    if icc_profile is None:
        return image, None
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        converted = ImageCms.profileToProfile(image, io.BytesIO(icc_profile), srgb, outputMode="RGB")
    except ImageCms.PyCMSError as error:
        raise ImageFileError(f"its colour profile cannot be used: {error}") from error
    return cast(Image.Image, converted), srgb.tobytes()


def _read_exif(image: Image.Image) -> Image.Exif | None:
    """Read the EXIF data, empty if there is none, or None if it is damaged."""
    try:
        exif = image.getexif()
        directories = {tag: exif.get_ifd(tag) for tag in (_EXIF_DIRECTORY, _GPS_DIRECTORY)}
        if image.format == "TIFF":
            described = Image.Exif()
            described.update({tag: exif[tag] for tag in _DESCRIPTIVE_TAGS if tag in exif})
            for tag, directory in directories.items():
                described.get_ifd(tag).update(directory)
            exif = described
        exif.tobytes()
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return None
    return exif


def _resized_exif(exif: Image.Exif, size: tuple[int, int]) -> bytes:
    directory = exif.get_ifd(_EXIF_DIRECTORY)
    for tag, value in zip((_PIXEL_X_DIMENSION, _PIXEL_Y_DIMENSION), size, strict=True):
        if tag in directory:
            directory[tag] = value
    return exif.tobytes()
