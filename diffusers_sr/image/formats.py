"""The image formats that are read, those that are written and what they can hold: the only list of suffixes.

It needs no other module, so that help texts can quote it before anything heavy is imported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

WRITABLE: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".jfif": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpe": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".avif": ("AVIF", {"quality": 90, "subsampling": "4:4:4"}),
}
"""How each format is written, by suffix: Pillow's name for it, and options for its `save`.

High quality: what was just restored should not be lost to compression. (TIFF is not compressed at all: libtiff would
write other tags.) AVIF is read and written by Pillow from version 11.3 on, or with a plugin.
"""

ASKED_FOR = (".avif",)
"""The suffixes of `WRITABLE` that results have only where they are asked for: not every Pillow writes them."""

FORMATS = ("png", "jpg", "webp", "tif", "avif")
"""The formats that results can be asked for in, by their suffixes."""

HAS_QUALITY = ("JPEG", "WEBP", "AVIF")

_ONLY_READ = {
    ".gif": "GIF",
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    ".tga": "TGA",
    **dict.fromkeys((".jp2", ".j2k", ".jpf", ".jpx"), "JPEG2000"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIF"),
    ".mpo": "JPEG",
    ".apng": "PNG",
}

READABLE = (*WRITABLE, *_ONLY_READ)
"""The suffixes of files that are treated as images; Pillow reads some of them only with a plugin.

They are in order of preference, for a photo that is stored in several formats.
"""

OPENED = tuple(
    sorted({*_ONLY_READ.values(), *(name for name, _ in WRITABLE.values())}, key=lambda name: (name == "TGA", name))
)
"""Pillow's names of the formats that are opened, whatever a file's suffix.

All others are left alone: Pillow would run Ghostscript on PostScript. TGA comes last, because nothing in its first
bytes tells it from other files.
"""

SUFFIX_OF = {name: suffix for suffix, (name, _) in reversed(WRITABLE.items()) if name != "AVIF"}
"""The usual suffix of each format that every Pillow writes, by its name for it."""

MOST_BYTES_OF_TIFF = (1 << 32) - (1 << 26)
"""The most bytes of pixels that a TIFF is written with; its places are numbers of 32 bits."""
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "AVIF": 32768}  # of AVIF, what libavif reads
HOLDS_TRANSPARENCY = ("PNG", "WEBP", "TIFF", "AVIF")
HOLDS_16_BITS = ("PNG", "TIFF")
"""Those that are written with 16 bits per channel; of AVIF, Pillow writes 8."""
HOLDS_METADATA = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")


def images_in(folder: Path) -> list[Path]:
    """List the files of a folder that have an image's suffix and are not hidden, sorted by name.

    Files that cannot be opened, such as links that lead nowhere, are among them.

    Raises:
        OSError: if the folder cannot be listed.
    """
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in READABLE and not path.name.startswith(".") and not os.path.isdir(path)
    )
