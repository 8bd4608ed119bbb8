"""Read photographs from files, with everything that the files of the results have to keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .bands import bands
from .decoding import DAMAGED, Decoded, decode, open_image, orientation_of
from .deep import Deep, decode_deep, find_deep, in_8_bits
from .depth import bits_of
from .kinds import MEANING, PAGES, srgb_profile
from .metadata import Metadata, read_metadata, turn
from .tiff_kinds import GREY_WITH_ALPHA, LAB


@dataclass
class Photo:
    """A photograph as it was read.

    Args:
        image: its pixels, RGB, turned upright as its EXIF data says.
        alpha: its transparency, mode "L" and of the same size, or None if it has none.
        mode: "L" if the file stores one channel of grey, otherwise "RGB".
        is_grey: whether it has no colour, in whatever mode it is stored.
        icc_profile: the colour profile its pixels are in.
        metadata: the rest of what came with it; the orientation has been applied.
        notes: what is not kept of the file, in words.
        deep: its pixels and transparency with 16 bits per channel, if it has them; `image` and `alpha` are these,
            rounded.
    """

    image: Image.Image
    alpha: Image.Image | None
    mode: str
    is_grey: bool
    icc_profile: bytes | None
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)
    deep: Deep | None = None


def read_photo(path: Path) -> Photo:
    """Read an image file of any kind Pillow knows. CMYK becomes sRGB by its profile, and CIELAB sRGB.

    Raises:
        ImageFileError: if there is no such file, or it is empty, damaged, truncated, not an image, too large (more
            than twice Pillow's `MAX_IMAGE_PIXELS`), or holds pixels of unknown range.
    """
    notes = []
    with open_image(path) as image:
        frames = _frames(image)  # which reads how the first is stored anew
        is_deep, stored = _is_deep(image), find_deep(image)
        bits = 16 if is_deep else bits_of(path, image.format)
        if bits > 8 and stored is None:
            notes.append(f"has {bits} bits per channel, of which 8 are read")
        if image.mode in ("CMYK", "LAB") or image.info.get(MEANING) == LAB:
            notes.append("has colours that are not RGB; those of the result are sRGB")
        if frames > 1:
            notes.append(f"has {frames} frames; only the first is taken")
        if image.info.get(DAMAGED):
            notes.append("has damaged metadata, which is not kept")
        mode = "L" if _stores_grey(image) else "RGB"
        if image.format == "PNG":
            image.load()  # what comes after the pixels, and damage to the pixels is not damage to that
        metadata = read_metadata(image, path, mode == "L")
        if orientation_of(image) >= 5:
            turn(metadata)
        icc_profile = srgb_profile() if image.info.get(MEANING) == LAB else image.info.get("icc_profile")
        deep = None if stored is None else decode_deep(image, path, stored)
        decoded = decode(image) if deep is None else _in_8_bits(deep, icc_profile)
    if metadata.xmp is not None and b"hdrgm:" in metadata.xmp:
        notes.append("has a gain map for HDR screens, which is not kept")
    return Photo(
        image=decoded.image,
        alpha=decoded.alpha,
        mode=mode,
        is_grey=mode == "L" or (_has_equal_channels(decoded.image) and (deep is None or deep.is_grey())),
        icc_profile=decoded.icc_profile or metadata.gamma_profile,
        metadata=metadata,
        notes=[*notes, *metadata.notes],
        deep=deep,
    )


def without_metadata(photo: Photo) -> Photo:
    """Leave out everything that came with a photograph except for what its colours mean, without which they change."""
    metadata = Metadata(colours=photo.metadata.colours)
    return replace(photo, metadata=metadata, notes=[note for note in photo.notes if note not in photo.metadata.notes])


def _has_equal_channels(image: Image.Image) -> bool:
    for box in bands(image.size):
        pixels = np.asarray(image.crop(box))
        if (pixels != pixels[..., :1]).any():
            return False
    return True


def _in_8_bits(deep: Deep, icc_profile: bytes | None) -> Decoded:
    image = in_8_bits(deep.colours)
    alpha = None if deep.alpha is None else in_8_bits(deep.alpha)
    return Decoded(image if image.mode == "RGB" else image.convert("RGB"), alpha, icc_profile)


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits per channel; only known before the pixels are loaded."""
    for codec, raw_mode, others in _raw_modes(image):
        if raw_mode.endswith((";16B", ";16L", ";16N")) or (codec == "ppm" and others[0] > 255):
            return True
    return image.mode.startswith("I") or image.info.get(MEANING) in GREY_WITH_ALPHA


def _stores_grey(image: Image.Image) -> bool:
    """Whether the file stores one channel of colour; Pillow reads 16 bits of it with transparency as RGBA."""
    if image.mode in ("1", "L", "LA") or image.mode.startswith("I") or image.info.get(MEANING) in GREY_WITH_ALPHA:
        return True
    return any(raw_mode.split(";")[0] == "LA" for _, raw_mode, _ in _raw_modes(image))


def _raw_modes(image: Image.Image) -> Iterator[tuple[str, str, list[Any]]]:
    """List codecs, how they find the pixels stored, and their other options."""
    for codec, _, _, options in getattr(image, "tile", ()):
        raw_mode, *others = (options,) if isinstance(options, str) else options or ("",)
        yield codec, str(raw_mode), others


def _frames(image: Image.Image) -> int:
    """Count the pictures in a file; a camera's previews in an MPO are not among them."""
    if image.format != "MPO":
        return image.info.get(PAGES, 0) or getattr(image, "n_frames", 1)
    pictures = (getattr(image, "mpinfo", None) or {}).get(0xB002, [])
    return sum("Thumbnail" not in str(picture["Attribute"]["MPType"]) for picture in pictures)
