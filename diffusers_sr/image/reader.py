"""Read photographs from files, with everything that the files of the results have to keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import IFD, Base

from .decoding import bands, decode, open_image

# What a TIFF's first directory says about the photograph; the rest of it says how that one file stores its pixels.
_DESCRIPTIVE_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)


@dataclass
class Photo:
    """A photograph as it was read.

    Args:
        image: its pixels, RGB, turned upright as its EXIF data says.
        alpha: its transparency, mode "L" and of the same size, or None if it has none.
        mode: "L" if the file stores one channel of grey, otherwise "RGB".
        is_grey: whether it has no colour, in whatever mode it is stored.
        icc_profile: the colour profile its pixels are in.
        exif: its EXIF data without the orientation, which has been applied.
        notes: what is not kept of the file, in words.
    """

    image: Image.Image
    alpha: Image.Image | None
    mode: str
    is_grey: bool
    icc_profile: bytes | None
    exif: Image.Exif | None
    notes: list[str] = field(default_factory=list)


def read_photo(path: Path) -> Photo:
    """Read an image file of any kind Pillow knows. CMYK becomes sRGB by its profile; 16 bits per channel become 8.

    Raises:
        ImageFileError: if there is no such file, or it is empty, damaged, truncated, not an image, too large (more
            than twice Pillow's `MAX_IMAGE_PIXELS`), or holds pixels of unknown range.
    """
    notes = []
    with open_image(path) as image:
        if _is_deep(image):
            notes.append("has 16 bits per channel; the output has 8")
        # The other frames of an MPO are a camera's previews of the first.
        frames = getattr(image, "n_frames", 1)
        if image.format != "MPO" and frames > 1:
            notes.append(f"has {frames} frames; only the first is taken")
        if image.format == "PNG":
            image.load()  # its EXIF data may come last, and damage to the pixels is not damage to that
        exif = _read_exif(image)  # before the pixels of others: Pillow closes a TIFF once it has those
        if exif is None:
            notes.append("has damaged EXIF data, which is not kept")
        decoded = decode(image)
        if exif is not None:
            exif.pop(Base.Orientation, None)  # only now: it has been applied
    mode = "L" if image.mode in ("1", "L", "LA") or image.mode.startswith("I") else "RGB"
    return Photo(
        image=decoded.image,
        alpha=decoded.alpha,
        mode=mode,
        is_grey=mode == "L" or _has_equal_channels(decoded.image),
        icc_profile=decoded.icc_profile,
        exif=exif or None,
        notes=notes,
    )


def _has_equal_channels(image: Image.Image) -> bool:
    for box in bands(image.size):
        pixels = np.asarray(image.crop(box))
        if (pixels != pixels[..., :1]).any():
            return False
    return True


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits per channel; only known before the pixels are loaded."""
    for codec, _, _, options in getattr(image, "tile", ()):
        raw_mode, *others = (options,) if isinstance(options, str) else options or ("",)
        if str(raw_mode).endswith((";16B", ";16L", ";16N")) or (codec == "ppm" and others[0] > 255):
            return True
    return image.mode.startswith("I")


def _read_exif(image: Image.Image) -> Image.Exif | None:
    """Read the EXIF data, empty if there is none, or None if it is damaged."""
    try:
        exif = image.getexif()
        directories = {tag: exif.get_ifd(tag) for tag in (IFD.Exif, IFD.GPSInfo)}
        if image.format == "TIFF":
            described = Image.Exif()
            described.update({tag: exif[tag] for tag in _DESCRIPTIVE_TAGS if tag in exif})
            for tag, directory in directories.items():
                described.get_ifd(tag).update(directory)
            exif = described
        exif.tobytes()
    except Exception:  # damaged data can lead to any error, and does not cost the image
        return None
    return exif
