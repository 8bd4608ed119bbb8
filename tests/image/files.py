"""Image files written byte by byte, for what Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:subject>keyword</dc:subject></x:xmpmeta>'
IPTC = b"\x1c\x02\x19\x00\x07keyword"
RESOURCE = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    path: Path,
    chunks: Sequence[tuple[bytes, bytes]] = (),
    pixels: bytes = PHOTO.tobytes(),
    depth: int = 8,
    kind: int = 2,
    last: Sequence[tuple[bytes, bytes]] = (),
    size: tuple[int, int] = (16, 12),
) -> None:
    """Write a PNG of 16 x 12 pixels, or another size, with chunks before and after them."""
    row = len(pixels) // size[1]
    rows = b"".join(b"\0" + pixels[start : start + row] for start in range(0, len(pixels), row))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
        + b"".join(chunk(*each) for each in chunks)
        + chunk(b"IDAT", zlib.compress(rows))
        + b"".join(chunk(*each) for each in last)
        + chunk(b"IEND", b"")
    )


def segment(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, kind, len(content) + 2) + content


def jpeg(path: Path, *segments: bytes, exif: bytes = b"") -> None:
    """Write a JPEG with segments at its start."""
    PHOTO.save(path, exif=exif, quality=95, dpi=(300, 300))
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"".join(segments) + content[2:])


def exif(entries: dict[int, tuple[int, int, bytes]], order: str = "<") -> bytes:
    """Write EXIF data of one directory: type, number and bytes of each tag."""
    start = 8 + 2 + 12 * len(entries) + 4
    rows = values = b""
    for tag, (kind, number, value) in sorted(entries.items()):
        field = value
        if len(value) > 4:
            field = struct.pack(order + "I", start + len(values))
            values += value + bytes(len(value) % 2)
        rows += struct.pack(order + "HHI", tag, kind, number) + field.ljust(4, b"\0")
    mark = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, len(entries))
    return b"Exif\0\0" + mark + rows + bytes(4) + values


def text(value: str) -> tuple[int, int, bytes]:
    """An entry of text in UTF-8."""
    content = value.encode() + b"\0"
    return 2, len(content), content


def tiff(
    path: Path,
    pixels: bytes,
    photometric: int,
    samples: int = 1,
    order: str = "<",
    more: dict[int, int] | None = None,
    size: tuple[int, int] = (16, 12),
    big: bool = False,
) -> None:
    """Write a TIFF of 16 x 12 pixels, or another size, with 16 bits per channel; `more` are tags of one number.

    A BigTIFF, which `big` asks for, has places and sizes of 64 bits.
    """
    place, count, field, start = ("Q", "Q", 8, 16) if big else ("I", "H", 4, 8)
    bits = struct.pack(f"{order}{samples}H", *[16] * samples)
    rows: dict[int, tuple[int, int, bytes]] = {
        tag: (16 if big else 4, 1, struct.pack(order + place, value))
        for tag, value in {256: size[0], 257: size[1], 273: start, 278: size[1], 279: len(pixels)}.items()
    }
    numbers = {259: 1, 262: photometric, 277: samples, **(more or {})}
    rows |= {tag: (3, 1, struct.pack(order + "H", value)) for tag, value in numbers.items()}
    end = start + len(pixels)
    rows[258] = (3, samples, bits if len(bits) <= field else struct.pack(order + place, end))
    directory = struct.pack(order + count, len(rows))
    for tag, (kind, number, value) in sorted(rows.items()):
        directory += struct.pack(order + "HH" + place, tag, kind, number) + value.ljust(field, b"\0")
    head = struct.pack(order + "HHH", 43, 8, 0) if big else struct.pack(order + "H", 42)
    mark = {"<": b"II", ">": b"MM"}[order] + head + struct.pack(order + place, end + len(bits))
    path.write_bytes(mark + pixels + bits + directory + bytes(field))
