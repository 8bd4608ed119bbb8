"""Kinds of TIFF files that Pillow does not read, or reads wrongly, made into kinds that it reads."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import png
from .tags import Directory, Entry, count_directories, long, read_tags, short, write_tags

_SMALL, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS, _SIZES, _PLANES, _PREDICTOR = 273, 277, 278, 279, 284, 317
_BELOW, _EXTRA, _DNG = 330, 338, 50706
_WANTED = frozenset((_SMALL, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _SAMPLES, _ROWS, _SIZES))
_WANTED |= {_PLANES, _PREDICTOR, _BELOW, _EXTRA, _DNG}

LAB = "CIELAB"
INVERTED = "grey of which 0 is white"
GREY_WITH_ALPHA = {"grey with transparency, low bytes first": "GA", "grey with transparency, high bytes first": "RB"}
"""Grey with transparency as four channels of 8 bits: where the higher bytes are."""


_MARKS = (b"II*\0", b"MM\0*")
_MARKS_OF_BIG = (b"II+\0", b"MM\0+")
"""The first bytes of TIFF and of BigTIFF files. Of the latter, Pillow does not know the second."""


class Readable(NamedTuple):
    """A TIFF that Pillow reads; of several pages, it has the first."""

    content: bytes
    meaning: str | None
    """What its values stand for, if not what they seem to: `LAB`, `INVERTED`, or one of `GREY_WITH_ALPHA`."""
    pages: int
    """How many pages the file has."""


class Fields(NamedTuple):
    """What the first directory of a TIFF says of its pixels."""

    order: str
    """Its byte order, as `struct` writes it."""
    main: Directory
    is_big: bool
    """Whether it is a BigTIFF."""

    def numbers(self, tag: int, *default: int) -> tuple[int, ...]:
        """Give the numbers of a tag."""
        entry = self.main.get(tag)
        if not isinstance(entry, Entry) or entry.kind not in (3, 4):
            return default
        return struct.unpack(f"{self.order}{entry.number}{'H' if entry.kind == 3 else 'I'}", entry.value)

    def number(self, tag: int, default: int) -> int:
        """Give the first number of a tag."""
        return self.numbers(tag, default)[0]

    def is_raw(self) -> bool:
        """Whether the file is a camera's raw file: the first directory is that of its preview."""
        is_preview = bool(self.number(_SMALL, 0) & 1) and _BELOW in self.main
        return is_preview or _DNG in self.main

    def __str__(self) -> str:
        bits = "+".join(map(str, self.numbers(_BITS, 1)[:8]))
        return f"{bits} bits, photometric {self.number(_PHOTOMETRIC, 0)}, compression {self.number(_COMPRESSION, 1)}"


def fields_of(file: Path | str | bytes) -> Fields | None:
    """Read what a TIFF says of its pixels, or give None if it is not one, or is damaged."""
    with png.opened(file) as opened:
        mark = opened.read(4)
        if mark not in _MARKS + _MARKS_OF_BIG:
            return None
        try:
            order, main, _, _ = read_tags(opened, _WANTED)
        except ValueError:
            return None
    return Fields(order, main, mark in _MARKS_OF_BIG)


def made_readable(file: Path | str | bytes, fields: Fields) -> Readable | None:
    """Make a TIFF one that Pillow reads as it is meant; None if it is one already, or there is no way.

    Raises:
        ValueError: if it is damaged, or too large to be made one.
    """
    samples = fields.number(_SAMPLES, 1)
    is_deep = set(fields.numbers(_BITS, 1)) == {16}
    are_apart = is_deep and fields.number(_PLANES, 1) == 2 and samples > 1
    if are_apart and (fields.number(_COMPRESSION, 1) != 1 or _STRIPS not in fields.main):
        return None
    changes, meaning = _changes(fields, samples) if is_deep else ({}, None)
    is_unknown = fields.is_big and fields.order == ">"
    if not changes and not are_apart and not is_unknown:
        return None
    with png.opened(file) as opened:
        content = opened.read()
        pages = count_directories(opened)
    if len(content) * (2 if are_apart else 1) >> 32:
        raise ValueError("is a TIFF of a kind that is not read if it has more than 2 GB: save it as RGB or grey")
    if are_apart:
        end = len(content) + len(content) % 2
        pixels = _together(content, fields, samples)
        content = content.ljust(end, b"\0") + pixels
        changes |= {
            _PLANES: short(fields.order, 1),
            _STRIPS: long(fields.order, end),
            _ROWS: long(fields.order, fields.number(_HEIGHT, 0)),
            _SIZES: long(fields.order, len(pixels)),
        }
    return Readable(_changed(content, changes), meaning, pages)


def _changes(fields: Fields, samples: int) -> tuple[Directory, str | None]:
    order = fields.order
    photometric = fields.number(_PHOTOMETRIC, 0)
    if photometric == 8 and samples == 3:
        return {_PHOTOMETRIC: short(order, 2)}, LAB
    if photometric == 0 and samples == 1:
        return {_PHOTOMETRIC: short(order, 1)}, INVERTED
    if photometric == 1 and samples == 2 and fields.number(_PREDICTOR, 1) == 1:
        # Four channels of 8 bits: the bytes of grey, and those of its transparency.
        values = {_PHOTOMETRIC: 2, _SAMPLES: 4, _BITS: 8, _EXTRA: 2}
        return {tag: short(order, value) for tag, value in values.items()}, [*GREY_WITH_ALPHA][order == ">"]
    return {}, None


def _together(content: bytes, fields: Fields, samples: int) -> bytes:
    """Put the channels of pixels together that are stored one after another."""
    width, height = fields.number(_WIDTH, 0), fields.number(_HEIGHT, 0)
    sizes = fields.numbers(_SIZES, 0)
    strips = zip(fields.numbers(_STRIPS, 0), sizes, strict=False)
    is_sound = sum(sizes) == samples * height * width * 2 <= len(content)
    stored = b"".join(content[start : start + size] for start, size in strips) if is_sound else b""
    if not is_sound or len(stored) != sum(sizes):
        raise ValueError("is damaged: its channels do not have the size of the image")
    return np.moveaxis(np.frombuffer(stored, np.uint16).reshape(samples, height, width), 0, -1).tobytes()


def _changed(content: bytes, changes: Directory) -> bytes:
    """Change the first directory: a new one, at the end of the file, takes its place. A BigTIFF becomes a TIFF."""
    order, main, _, _ = read_tags(io.BytesIO(content))
    content += bytes(len(content) % 2)
    directory, place = write_tags(main | changes, order, len(content))
    return _MARKS[order == ">"] + struct.pack(order + "I", place) + content[8:] + directory
