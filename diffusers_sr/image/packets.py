"""Metadata in formats where Pillow does not look for it: GIF and JPEG 2000."""

from __future__ import annotations

import struct
from typing import BinaryIO

_GIF_XMP = b"\x21\xff\x0bXMP DataXMP"
_GIF_XMP_END = b"\x01\xff\xfe"
# Boxes of JPEG 2000, by their identifiers.
_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_EXIF = b"JpgTiffExif->JP2"
_IPTC = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")
_KINDS = {_XMP: "xmp", _EXIF: "exif", _IPTC: "iptc"}
_MOST_BOXES = 1000


def of_gif(file: BinaryIO, most: int) -> bytes | None:
    """Find XMP data in the first `most` bytes of a GIF."""
    content = file.read(most)
    start = content.find(_GIF_XMP)
    end = content.find(_GIF_XMP_END, start)
    return content[start + len(_GIF_XMP) : end] if 0 <= start < end else None


def of_jpeg_2000(file: BinaryIO, most: int) -> dict[str, bytes]:
    """Read the boxes of a JPEG 2000 file that hold XMP, EXIF or IPTC data of at most `most` bytes."""
    found: dict[str, bytes] = {}
    end = file.seek(0, 2)
    start = 0
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            break
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            size, head = int.from_bytes(file.read(8)), 16
        if size < head:  # 0 if the box goes on to the end of the file
            size = end - start
        if kind == b"uuid" and size <= min(most, end - start):
            name = _KINDS.get(file.read(16))
            if name is not None:
                found[name] = file.read(size - head - 16)
        start += size
    return found
