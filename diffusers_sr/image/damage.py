"""Files without those parts of their metadata for which Pillow would refuse them, picture and all."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from . import png

_APP0, _APP1, _APP2, _APP13, _APP14, _COMMENT, _SCAN = 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xDA
# The fewest bytes of a segment that Pillow can read, by its kind and how it starts.
_FEWEST = {(_APP0, b"JFIF"): 12, (_APP14, b"Adobe"): 12, (_APP2, b"ICC_PROFILE\0"): 15}


def without_damaged_chunks(file: Path | str | bytes) -> bytes | None:
    """Give a PNG without damaged chunks that its picture does not need, or None if it is sound, or not a PNG."""
    with png.opened(file) as opened:
        return png.without_damage(opened) if png.is_png(opened) else None


def without_segments(file: Path | str | bytes) -> Iterator[bytes]:
    """Give a JPEG with less and less metadata: without what is damaged, and without all but its profile."""
    with png.opened(file) as opened:
        if opened.read(2) != b"\xff\xd8":
            return
        segments, start = _segments(opened)
        opened.seek(start)
        picture = opened.read()
    for keeps in (_is_sound, _is_of_colour):
        yield b"\xff\xd8" + b"".join(_written(*each) for each in segments if keeps(*each)) + picture


def _segments(file: BinaryIO) -> tuple[list[tuple[int, bytes]], int]:
    """Read the segments before the picture: their kind and content; and where the first that is not one begins."""
    segments: list[tuple[int, bytes]] = []
    start = 2
    while True:
        file.seek(start)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (_SCAN, 0xFF):
            return segments, start
        size = struct.unpack(">H", head[2:])[0]
        segments.append((head[1], file.read(max(size - 2, 0))))
        start += 2 + max(size, 2)


def _written(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, kind, len(content) + 2) + content


def _is_sound(kind: int, content: bytes) -> bool:
    if kind == _APP13 or (kind == _APP2 and not content.startswith(b"ICC_PROFILE\0")):
        return False
    return all(
        kind != of or not content.startswith(start) or len(content) >= size for (of, start), size in _FEWEST.items()
    )


def _is_of_colour(kind: int, content: bytes) -> bool:
    is_application = _APP0 <= kind <= 0xEF
    return _is_sound(kind, content) and kind != _COMMENT and (not is_application or kind in (_APP2, _APP14))
