"""Hostile files, made from nothing: sizes and lengths that lie, bombs, loops, and metadata that is none."""

from __future__ import annotations

import random
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from diffusers_sr.image.kinds import srgb_profile
from tests.image import files

from .damage import damage
from .seeds import seeds

_SIDES = (0, 1, 2, 7, 255, 256, 4000, 13000, 20000, 32767, 65535, 65536, 0x7FFFFFFF, 0xFFFFFFFF)
_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 12, 16, 17, 32, 255, 256, 32767, 65535, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_BOMB = 30_000_000  # bytes of zeros


def hostile(number: int, seed: int) -> tuple[str, str, bytes]:
    """Make hostile file number `number`, which runs in threes: its kind, its suffix and its contents."""
    chance = random.Random(f"hostile/{seed}/{number}")
    kind, make = list(_KINDS.items())[number // 3 % len(_KINDS)]
    suffix, content = make(chance)
    return kind, suffix, content


def _png(head: bytes, *chunks: tuple[bytes, bytes]) -> tuple[str, bytes]:
    parts = [files.chunk(b"IHDR", head), *(files.chunk(*each) for each in chunks), files.chunk(b"IEND", b"")]
    return ".png", b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@cache
def _zeros() -> bytes:
    return zlib.compress(bytes(_BOMB), 9)


def _png_sizes(chance: random.Random) -> tuple[str, bytes]:
    head = struct.pack(">II", chance.choice(_SIDES) & 0x7FFFFFFF, chance.choice(_SIDES) & 0x7FFFFFFF)
    head += bytes((chance.choice((1, 2, 4, 8, 16, 3)), chance.choice((0, 2, 3, 4, 6, 5)), 0, 0, chance.choice((0, 1))))
    return _png(head, (b"IDAT", zlib.compress(bytes(chance.choice((0, 100, 5000))))))


def _png_bomb(chance: random.Random) -> tuple[str, bytes]:
    """A picture of zeros, of up to 36 million pixels, that takes 30 kB."""
    depth, kind, size = chance.choice(((1, 0, 15000), (8, 0, 5400), (8, 2, 3100), (16, 2, 2200), (16, 6, 1900)))
    return _png(struct.pack(">IIBBBBB", size, size, depth, kind, 0, 0, 0), (b"IDAT", _zeros()))


def _png_text_bomb(chance: random.Random) -> tuple[str, bytes]:
    bombs = {
        b"zTXt": b"Comment\0\0" + _zeros(),
        b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0" + _zeros(),
        b"iCCP": b"profile\0\0" + _zeros(),
        b"tEXt": b"Raw profile type exif\0" + b"\nexif\n 9999999\n" + b"4d" * 100000,
        b"eXIf": b"II*\0" + b"\xff" * 100000,
    }
    kind = chance.choice(list(bombs))
    many = [(b"tEXt", b"Author\0somebody")] * chance.choice((0, 3000))
    rows = (b"\0" + bytes(range(48))) * 12
    return _png(
        struct.pack(">IIBBBBB", 16, 12, 8, 2, 0, 0, 0), (kind, bombs[kind]), *many, (b"IDAT", zlib.compress(rows))
    )


def _entries(chance: random.Random, loops_to: int, count: int) -> bytes:
    """Make a directory of TIFF tags with wild values, some of which lead back to where it begins."""
    tags = (
        256,
        257,
        258,
        259,
        262,
        273,
        277,
        278,
        279,
        284,
        317,
        322,
        323,
        324,
        325,
        330,
        338,
        339,
        700,
        0x8769,
        34675,
    )
    rows = b""
    for tag in sorted(chance.sample((*tags, 0x8825, 0xA005, 0x927C, 33723, 34377, 271, 274, 282), min(count, 24))):
        value = chance.choice((loops_to, *_NUMBERS))
        rows += struct.pack(
            "<HHII", tag, chance.choice((1, 2, 3, 4, 5, 7, 12, 13, 99)), chance.choice(_NUMBERS), value
        )
    return struct.pack("<H", len(rows) // 12) + rows + struct.pack("<I", chance.choice((0, loops_to, 2, 0xFFFFFFF0)))


def _tiff_loop(chance: random.Random) -> tuple[str, bytes]:
    return ".tif", b"II*\0" + struct.pack("<I", 8) + _entries(chance, 8, chance.randint(1, 24)) + bytes(2000)


def _tiff_values(chance: random.Random) -> tuple[str, bytes]:
    """A sound TIFF except for some of the numbers that say how it is stored."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photo.tif")
        samples = chance.choice((1, 2, 3, 4))
        more = {chance.choice((254, 259, 262, 274, 284, 317, 338, 339, 266)): chance.choice(_NUMBERS) & 0xFFFF}
        sides = chance.choice(_SIDES), chance.choice(_SIDES)
        size = (16, 12) if chance.random() < 0.6 else sides
        files.tiff(
            path, bytes(384 * samples), chance.choice((0, 1, 2, 5, 8)), samples, chance.choice("<>"), more, size
        )
        return ".tif", path.read_bytes()


def _exif_in(chance: random.Random) -> tuple[str, bytes]:
    """A sound picture with EXIF data that leads in circles, in a JPEG or a PNG."""
    exif = b"II*\0" + struct.pack("<I", 8) + _entries(chance, 8, chance.randint(1, 24)) + bytes(100)
    if chance.random() < 0.5:
        return ".jpg", _with_segments(files.segment(0xE1, b"Exif\0\0" + exif))
    rows = (b"\0" + bytes(range(48))) * 12
    head = struct.pack(">IIBBBBB", 16, 12, 8, 2, 0, 0, 0)
    return _png(head, (b"eXIf", exif), (b"IDAT", zlib.compress(rows)))


def _with_segments(*segments: bytes) -> bytes:
    content = seeds()["JPEG"][1]
    return content[:2] + b"".join(segments) + content[2:]


def _jpeg_sizes(chance: random.Random) -> tuple[str, bytes]:
    content = bytearray(seeds()[chance.choice(("JPEG", "progressive JPEG", "CMYK JPEG"))][1])
    start = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    sides = chance.choice(_SIDES) & 0xFFFF, chance.choice(_SIDES) & 0xFFFF
    content[start + 5 : start + 9] = struct.pack(">HH", *sides)
    return ".jpg", bytes(content)


def _xmp(chance: random.Random) -> tuple[str, bytes]:
    packets = (
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + b'<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">' * 200 + b"]><x>&b;</x>",
        b"<x:xmpmeta>" + b"<rdf:li>" * 7000,
        b"<xmp:Thumbnails" * 4000,
        b"tiff:Orientation=" * 3000,
        b"a:" + b"Orientation>" * 4000,
        "<x:xmpmeta/>".encode("utf-16"),
        bytes(chance.randrange(256) for _ in range(2000)),
        b"<x:xmpmeta>\0\0</x:xmpmeta>" + bytes(3000),
        b"<rdf:RDF></rdf:RDF >" * 3000,
    )
    packet = chance.choice(packets)
    wrong = b"8BIM\x04\x04\0\0" + struct.pack(">I", chance.choice(_NUMBERS)) + b"\x1c\x02\x19\xff\xff" * 20
    xmp = files.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)
    return ".jpg", _with_segments(xmp, files.segment(0xED, b"Photoshop 3.0\0" + wrong))


def _profile(chance: random.Random) -> tuple[str, bytes]:
    """A sound picture with a colour profile that is damaged, or another's."""
    sound = _sound_profile()
    profile = chance.choice((damage(sound, chance), b"", bytes(128), sound[:128], b"\xff" * 3000, sound * 20))
    parts = [profile[start : start + 60000] for start in range(0, max(len(profile), 1), 60000)]
    numbers = chance.choice((range(1, 300), [0] * 300, [255] * 300, [1] * 300))
    segments = [
        files.segment(0xE2, b"ICC_PROFILE\0" + bytes((number, chance.choice((len(parts), 0, 255)))) + part)
        for number, part in zip(numbers, parts, strict=False)
    ]
    content = seeds()[chance.choice(("JPEG", "CMYK JPEG"))][1]
    return ".jpg", content[:2] + b"".join(segments) + content[2:]


@cache
def _sound_profile() -> bytes:
    """Make a sound profile."""
    return srgb_profile()


def _text_headers(chance: random.Random) -> tuple[str, bytes]:
    kind = chance.choice((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"PF", b"P7"))
    sides = b" ".join(str(chance.choice((*_SIDES, -1, 16))).encode() for _ in range(2))
    most = str(chance.choice((*_NUMBERS, -1))).encode()
    comment = chance.choice((b"", b"# text\n", b"#" * 100000, b"9" * 5000))
    return ".ppm", b"\n".join((kind, comment, sides, most, bytes(chance.choice((0, 600, 5000)))))


def _box(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I", 8 + len(content) if size is None else size) + kind + content


def _boxes(chance: random.Random) -> tuple[str, bytes]:
    """Boxes of AVIF, HEIF and JPEG 2000 files with lengths that lie, in one another."""
    inner = b""
    for _ in range(chance.choice((1, 5, 300))):
        size = None if chance.random() < 0.8 else chance.choice((*_NUMBERS, 8, 9))
        inner = _box(
            chance.choice((b"meta", b"iprp", b"ipco", b"jp2h", b"uuid", b"ispe", b"iloc")), bytes(4) + inner, size
        )
    if chance.random() < 0.5:
        mark = b"jP  ", b"\r\n\x87\n"
        size_of = _box(b"ihdr", struct.pack(">IIHBBBB", *(chance.choice(_SIDES) for _ in "ab"), 3, 7, 7, 0, 0))
        return ".jp2", _box(*mark) + _box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + _box(b"jp2h", size_of) + inner + bytes(500)
    brand = chance.choice((b"avif", b"heic", b"mif1"))
    return f".{brand.decode()}"[:5], _box(b"ftyp", brand + bytes(4) + brand + b"mif1") + inner + bytes(500)


def _bmp(chance: random.Random) -> tuple[str, bytes]:
    sides = (chance.choice(_SIDES), chance.choice(_SIDES))
    bits, compression = chance.choice((1, 4, 8, 16, 24, 32, 0, 64)), chance.choice((0, 1, 2, 3, 4, 5, 99))
    head = struct.pack(
        "<IIIHHIIIIII", chance.choice((40, 12, 108, 124, 0)), *sides, 1, bits, compression, 0, 0, 0, 256, 0
    )
    return ".bmp", b"BM" + struct.pack("<IHHI", 1000, 0, 0, chance.choice((54, 0, 14, 0xFFFFFFFF))) + head + bytes(
        2000
    )


def _gif(chance: random.Random) -> tuple[str, bytes]:
    screen = struct.pack(
        "<HHBBB", *(chance.choice(_SIDES) & 0xFFFF for _ in "ab"), chance.choice((0, 0x80, 0xF7)), 0, 0
    )
    frame = b"," + struct.pack("<4HB", *(chance.choice((0, 1, 16, 65535)) for _ in range(4)), chance.choice((0, 0x87)))
    frame += bytes((chance.choice((0, 1, 2, 8, 12, 255)),)) + b"\x04\x00\xff\x00\x80\0"
    return ".gif", b"GIF89a" + screen + frame * chance.choice((1, 3, 2000)) + chance.choice((b";", b""))


def _riff(chance: random.Random) -> tuple[str, bytes]:
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes((chance.choice((0, 2, 0x3E)), 0, 0, 0)) + b"\xff\x3f\0" * 2
    parts = (canvas, b"ANIM\6\0\0\0" + bytes(6), b"ANMF" + struct.pack("<I", chance.choice(_NUMBERS)) + bytes(24))
    body = b"WEBP" + b"".join(part * chance.choice((0, 1, 1, 50)) for part in parts) + seeds()["WebP"][1][12:]
    return ".webp", b"RIFF" + struct.pack("<I", chance.choice((len(body), *_NUMBERS))) + body


def _wrong_suffix(chance: random.Random) -> tuple[str, bytes]:
    others = (b"PK\3\4" + bytes(99), b"\x7fELF" + bytes(99), b"<html></html>", b"%!PS\n1 0 div", b"\0" * 999, b"")
    contents = [*(content for _, content in seeds().values()), *others]
    suffixes = (
        ".png",
        ".jpg",
        ".tif",
        ".webp",
        ".avif",
        ".heic",
        ".gif",
        ".bmp",
        ".ppm",
        ".tga",
        ".jp2",
        ".mpo",
        ".JPE",
    )
    return chance.choice(suffixes), chance.choice(contents)


_KINDS: dict[str, Callable[[random.Random], tuple[str, bytes]]] = {
    "sizes of a PNG": _png_sizes,
    "bomb": _png_bomb,
    "bomb in a text": _png_text_bomb,
    "circles in a TIFF": _tiff_loop,
    "numbers of a TIFF": _tiff_values,
    "circles in EXIF data": _exif_in,
    "sizes of a JPEG": _jpeg_sizes,
    "XMP and IPTC data": _xmp,
    "colour profile": _profile,
    "header of a PPM": _text_headers,
    "boxes": _boxes,
    "header of a BMP": _bmp,
    "frames of a GIF": _gif,
    "chunks of a WebP": _riff,
    "wrong suffix": _wrong_suffix,
}
