"""IPTC data, and the image resources of Photoshop that it stands in."""

from __future__ import annotations

import struct

_MARK = b"Photoshop 3.0\0"
_IPTC = 0x0404


def in_segment(iptc: bytes) -> bytes:
    """Put IPTC data into a segment as JPEG files have it."""
    return _MARK + in_resource(iptc)


def in_resource(iptc: bytes) -> bytes:
    """Put IPTC data into an image resource."""
    return b"8BIM" + struct.pack(">HHI", _IPTC, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)


def of_segments(segments: list[bytes]) -> bytes | None:
    """Find IPTC data in a JPEG's segments of the kind APP13; a large resource goes on in the next segment."""
    return of_resources(b"".join(segment[len(_MARK) :] for segment in segments if segment.startswith(_MARK)))


def of_resources(data: bytes) -> bytes | None:
    """Find IPTC data in image resources, or None if there is none."""
    at = 0
    while data[at : at + 4] == b"8BIM" and at + 7 <= len(data):
        (kind,) = struct.unpack(">H", data[at + 4 : at + 6])
        name = 1 + data[at + 6]
        at += 6 + name + name % 2
        if len(data) < at + 4:
            return None
        (size,) = struct.unpack(">I", data[at : at + 4])
        if kind == _IPTC:
            return data[at + 4 : at + 4 + size]
        at += 4 + size + size % 2
    return None


def sound(iptc: bytes) -> bytes:
    """Give the records of IPTC data up to the first that is not one."""
    at = 0
    while iptc[at : at + 1] == b"\x1c" and at + 5 <= len(iptc):
        (size,) = struct.unpack(">H", iptc[at + 3 : at + 5])
        head = 5
        if size & 0x8000:  # a long record, whose length is a number of that many bytes
            head += size & 0x7FFF
            size = int.from_bytes(iptc[at + 5 : at + head])
        if at + head + size > len(iptc):
            break
        at += head + size
    return iptc[:at]
