"""XMP data, which is kept as it is except for what is wrong of the result."""

from __future__ import annotations

import re

# A name, and what stands before its value: of an attribute, or of an element.
_BEFORE = rb"""(\b\w{1,30}:(?:%s)(?:\s*=\s*["']|[^<>="']{0,200}>)\s*)\d+"""
_ORIENTATION = re.compile(_BEFORE % b"Orientation")
_SIZES = [re.compile(_BEFORE % b"ImageWidth|PixelXDimension"), re.compile(_BEFORE % b"ImageLength|PixelYDimension")]
_THUMBNAILS = (b"<xmp:Thumbnails", b"</xmp:Thumbnails>"), (b"<xap:Thumbnails", b"</xap:Thumbnails>")


def is_xmp(data: bytes) -> bool:
    """Whether the bytes are a text in which XMP may stand."""
    try:
        return "<" in data.decode()
    except UnicodeDecodeError:
        return False


def for_result(xmp: bytes, size: tuple[int, int]) -> bytes:
    """Set the orientation to upright and the size to that of the result, and take thumbnails out.

    Args:
        xmp: the data.
        size: width and height of the result.
    """
    for start, end in _THUMBNAILS:
        xmp = _without(xmp, start, end)
    xmp = _ORIENTATION.sub(rb"\g<1>1", xmp)
    for pattern, length in zip(_SIZES, size, strict=True):
        xmp = pattern.sub(rb"\g<1>%d" % length, xmp)
    return xmp


def _without(xmp: bytes, start: bytes, end: bytes) -> bytes:
    kept, at = [], 0
    while (found := xmp.find(start, at)) >= 0 and (last := xmp.find(end, found)) >= 0:
        kept.append(xmp[at:found])
        at = last + len(end)
    return b"".join([*kept, xmp[at:]])
