"""The chunks of PNG files that are not pixels: texts, EXIF data, and what their colours mean."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
COLOURS = (b"gAMA", b"cHRM", b"sRGB", b"cICP")
_XMP = b"XML:com.adobe.xmp"
_RAW = b"Raw profile type "
# Chunks that decoding the picture needs, or that are Pillow's business.
_PICTURE = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
_FEWEST_BYTES = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
MOST_BYTES = 16 << 20
_MOST_TEXT = 1 << 20  # after which Pillow refuses a compressed one, and the whole file


class Chunk(NamedTuple):
    """A chunk that is not pixels."""

    kind: bytes
    content: bytes
    start: int
    """Where it starts in the file."""
    is_sound: bool


def is_png(file: BinaryIO) -> bool:
    """Whether the file starts as a PNG does."""
    file.seek(0)
    return file.read(len(SIGNATURE)) == SIGNATURE


def chunks(file: BinaryIO) -> Iterator[Chunk]:
    """Read the chunks of a PNG that can be left out, up to where the file ends or is damaged."""
    start = len(SIGNATURE)
    while True:
        file.seek(start)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        size, kind = struct.unpack(">I4s", head)
        if kind[0] & 0x20 and kind not in _PICTURE:
            content = file.read(size) if size <= MOST_BYTES else b""
            checksum = file.read(4) if size <= MOST_BYTES else b""
            is_sound = checksum == struct.pack(">I", zlib.crc32(kind + content)) and _is_readable(kind, content)
            yield Chunk(kind, content, start, is_sound)
        start += 12 + size


def all_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Read all chunks of a sound PNG: their kinds and contents."""
    file.seek(len(SIGNATURE))
    while head := file.read(8):
        size, kind = struct.unpack(">I4s", head)
        yield kind, file.read(size)
        file.seek(4, 1)


def write_chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    """Write a chunk of a PNG."""
    file.write(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
    )


def without_damage(file: BinaryIO) -> bytes | None:
    """Give the PNG without chunks for which Pillow would refuse all of it, or None if there is no such chunk."""
    damaged = [chunk.start for chunk in chunks(file) if not chunk.is_sound]
    if not damaged:
        return None
    file.seek(0)
    content = file.read()
    kept, at = [], 0
    for start in damaged:
        kept.append(content[at:start])
        at = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    return b"".join([*kept, content[at:]])


def keyword(content: bytes) -> bytes:
    """Give the keyword of a text."""
    return content.split(b"\0", 1)[0]


def text(kind: bytes, content: bytes) -> bytes:
    """Give the bytes of a sound text, decompressed."""
    rest = content[len(keyword(content)) + 1 :]
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return _decompressed(rest[1:])
    written = b"".join(rest[2:].split(b"\0", 2)[2:])  # after a language and the keyword in it
    return _decompressed(written) if rest[:1] == b"\1" else written


def profile(chunk: Chunk) -> tuple[str, bytes] | None:
    """Give kind and bytes of the metadata that a text holds, if it does: XMP, or hexadecimal as ImageMagick has it."""
    name = keyword(chunk.content)
    if name == _XMP:
        return "xmp", text(chunk.kind, chunk.content)
    if not name.startswith(_RAW):
        return None
    try:
        return name[len(_RAW) :].decode(), bytes.fromhex(
            "".join(text(chunk.kind, chunk.content).decode("ascii").split("\n")[3:])
        )
    except ValueError:
        return name[len(_RAW) :].decode("latin-1"), b""


def raw_profile(kind: str, content: bytes) -> tuple[bytes, bytes]:
    """Make a text of metadata for which PNG has no place of its own, as ImageMagick does: its kind and content."""
    digits = content.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    written = f"\n{kind}\n{len(content):8}\n{lines}\n".encode()
    return b"zTXt", _RAW + kind.encode() + b"\0\0" + zlib.compress(written)


def _is_readable(kind: bytes, content: bytes) -> bool:
    rest = content[len(keyword(content)) + 1 :]
    if kind in (b"zTXt", b"iCCP"):
        compressed = rest[1:] if rest[:1] == b"\0" else b""
    elif kind == b"iTXt" and rest[:1] == b"\1":
        compressed = rest[2:].split(b"\0", 2)[-1] if rest.count(b"\0", 1) >= 3 else b""
    elif kind in TEXTS:
        return 1 <= len(keyword(content)) <= 79
    else:
        return len(content) >= _FEWEST_BYTES.get(kind, 0)
    try:
        _decompressed(compressed)
    except zlib.error:
        return False
    return True


def _decompressed(content: bytes) -> bytes:
    stream = zlib.decompressobj()
    result = stream.decompress(content, _MOST_TEXT)
    if not stream.eof:
        raise zlib.error("too long, or cut off")
    return result


def opened(file: Path | str | bytes) -> BinaryIO:
    """Open a file that is given by its path or its contents."""
    return io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb")
