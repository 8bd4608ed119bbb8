"""Read and write the directories of tags that TIFF files and EXIF data consist of; values stay the bytes they are."""

from __future__ import annotations

import struct
from collections.abc import Container
from contextlib import suppress
from typing import BinaryIO, NamedTuple, TypeAlias

EXIF, GPS, INTEROP, MAKER_NOTE = 0x8769, 0x8825, 0xA005, 0x927C
_WITHIN = {EXIF: 0, GPS: 0, INTEROP: EXIF}
"""Tags whose value is a directory, and the directory they stand in; 0 is the first."""
_ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 2, 3, 4, 5, 7
_LONG8 = (16, 18)
"""The types of unsigned numbers of 64 bits, which BigTIFF files have."""
# Bytes of a value, and of the numbers it consists of, by its type; 129 is the UTF-8 of EXIF 3.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 18: 8, 129: 1}
_NUMBERS = _SIZES | {5: 4, 10: 4}
MOST_ENTRIES = 1000
MOST_BYTES = 16 << 20


class Entry(NamedTuple):
    """The value of a tag: `number` values of a type, in the byte order of the file."""

    kind: int
    number: int
    value: bytes
    place: int | None = None
    """Where the value stood, unless it stood in the directory itself."""


Directory: TypeAlias = "dict[int, Entry | Directory]"
"""Entries by tag; that of EXIF, GPS or interoperability data is a directory itself."""


class Tags(NamedTuple):
    """The first directory of a file."""

    order: str
    """Its byte order, as `struct` writes it."""
    main: Directory
    damaged: bool
    """Whether an entry could not be read; it is left out."""
    left_out: list[int]
    """Sound tags that were not wanted."""


def text(value: bytes) -> Entry:
    """Make an entry of text."""
    return Entry(_ASCII, len(value) + 1, value + b"\0")


def short(order: str, value: int) -> Entry:
    """Make an entry of one number of 16 bits."""
    return Entry(_SHORT, 1, struct.pack(order + "H", value))


def long(order: str, value: int) -> Entry:
    """Make an entry of one number of 32 bits."""
    return Entry(_LONG, 1, struct.pack(order + "I", value))


def fraction(order: str, value: float) -> Entry:
    """Make an entry of one fraction, in thousandths."""
    return Entry(_RATIONAL, 1, struct.pack(order + "II", round(value * 1000), 1000))


def data(value: bytes) -> Entry:
    """Make an entry of bytes."""
    return Entry(_UNDEFINED, len(value), value)


def read_tags(file: BinaryIO, wanted: Container[int] | None = None) -> Tags:
    """Read the first directory of a TIFF file, or of EXIF data from its byte order on.

    Numbers of 64 bits become 32 bits; entries that need more cannot be read.

    Args:
        file: the file, which is read from its start.
        wanted: the tags of the first directory that are read; all if it is None.

    Raises:
        ValueError: if it is not a TIFF header, or its first directory cannot be read.
    """
    return _Reader(file).read(wanted)


def count_directories(file: BinaryIO) -> int:
    """Count the directories of a TIFF file that follow one another, up to 1000: each is a page.

    Raises:
        ValueError: if it is not a TIFF header.
    """
    return _Reader(file).count()


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = MOST_BYTES
        self.damaged = False
        self.left_out: list[int] = []
        head = self._at(0, 4)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        version = struct.unpack(order + "H", head[2:])[0] if order else 0
        if order is None or version not in (42, 43):
            raise ValueError("is not a TIFF header")
        self.order, self.is_big = order, version == 43

    def read(self, wanted: Container[int] | None) -> Tags:
        main = self._directory(self._start(), 0, wanted)
        return Tags(self.order, main, self.damaged, self.left_out)

    def count(self) -> int:
        places: set[int] = set()
        with suppress(ValueError):  # damaged from there on
            place = self._start()
            while place and place not in places and len(places) < MOST_ENTRIES:
                end = self._rows(place).stop
                places.add(place)
                place = self._unpack("Q" if self.is_big else "I", end)
        return len(places)

    def _start(self) -> int:
        return self._unpack("Q", 8) if self.is_big else self._unpack("I", 4)

    def _rows(self, start: int) -> range:
        """Give the places of the entries of a directory."""
        number = self._unpack("Q", start) if self.is_big else self._unpack("H", start)
        if number > MOST_ENTRIES:
            raise ValueError(f"a directory of {number} entries")
        row, first = (20, start + 8) if self.is_big else (12, start + 2)
        return range(first, first + row * number, row)

    def _directory(self, start: int, own: int, wanted: Container[int] | None = None) -> Directory:
        directory: Directory = {}
        for at in self._rows(start):
            try:
                tag, kind = struct.unpack(self.order + "HH", self._at(at, 4))
                if wanted is not None and tag not in wanted:
                    self.left_out.append(tag)
                elif _WITHIN.get(tag) == own:
                    below = self._unpack("Q", at + 12) if self.is_big else self._unpack("I", at + 8)
                    directory[tag] = self._directory(below, tag)
                elif tag in _WITHIN:
                    raise ValueError("a directory in a wrong place")
                elif (entry := self._entry(at, kind)) is not None:
                    directory[tag] = entry
            except ValueError:
                self.damaged = True
        return directory

    def _entry(self, at: int, kind: int) -> Entry | None:
        number, inline = ("Q", 8) if self.is_big else ("I", 4)
        count = self._unpack(number, at + 4)
        if count == 0:
            return None
        size = _SIZES.get(kind, 0) * count
        if not 0 < size <= self.left:
            raise ValueError("an unknown type, or too large")
        self.left -= size
        place = None if size <= inline else self._unpack(number, at + 4 + inline)
        value = self._at(at + 4 + inline if place is None else place, size)
        if kind in _LONG8:
            numbers = struct.unpack(f"{self.order}{count}Q", value)
            if max(numbers) >> 32:
                raise ValueError("a number of more than 32 bits")
            kind, value = _LONG, struct.pack(f"{self.order}{count}I", *numbers)
        return Entry(kind, count, value, place)

    def _unpack(self, kind: str, at: int) -> int:
        number: int = struct.unpack(self.order + kind, self._at(at, struct.calcsize("<" + kind)))[0]
        return number

    def _at(self, place: int, size: int) -> bytes:
        if place >= 1 << 63:
            raise ValueError("a place behind every file")
        self.file.seek(place)
        value = self.file.read(size)
        if len(value) < size:
            raise ValueError("ends too early")
        return value


def in_order(directory: Directory, order: str, new_order: str) -> Directory:
    """Give the directory with its values in another byte order."""
    if order == new_order:
        return directory
    return {
        tag: in_order(entry, order, new_order) if isinstance(entry, dict) else entry._replace(value=swapped(entry))
        for tag, entry in directory.items()
    }


def swapped(entry: Entry) -> bytes:
    """Give the bytes of an entry in the other byte order."""
    size = _NUMBERS[entry.kind]
    return b"".join(entry.value[at : at + size][::-1] for at in range(0, len(entry.value), size))


def write_tags(directory: Directory, order: str, start: int, fixed: Entry | None = None) -> tuple[bytes, int]:
    """Write a directory and all that is in it, for the place `start` of a file.

    Args:
        directory: the entries, in this byte order.
        order: the byte order, "<" or ">".
        start: where in the file the bytes will stand.
        fixed: an entry of it whose value stays at its place, if it is behind `start`: the note of a camera's maker
            may say where its parts are.

    Returns:
        The bytes, and the place of the directory in the file.
    """
    writer = _Writer(order, start, fixed)
    place = writer.put(directory)
    return bytes(writer.bytes), place


class _Writer:
    def __init__(self, order: str, start: int, fixed: Entry | None) -> None:
        self.order, self.start = order, start
        self.bytes = bytearray()
        self.fixed = fixed if fixed is not None and fixed.place is not None and fixed.place >= start else None

    def put(self, directory: Directory) -> int:
        place = self._allocate(2 + 12 * len(directory) + 4)
        table = struct.pack(self.order + "H", len(directory))
        for tag in sorted(directory):
            entry = directory[tag]
            if isinstance(entry, dict):
                entry = long(self.order, self.put(entry))
            field = entry.value
            if len(field) > 4:
                field = struct.pack(self.order + "I", self._put_value(entry))
            table += struct.pack(self.order + "HHI", tag, entry.kind, entry.number) + field.ljust(4, b"\0")
        self._write(place, table)
        return place

    def _put_value(self, entry: Entry) -> int:
        if entry is self.fixed:
            assert entry.place is not None
            place = entry.place
        else:
            place = self._allocate(len(entry.value))
        self._write(place, entry.value)
        return place

    def _allocate(self, size: int) -> int:
        place = self.start + len(self.bytes)
        place += place % 2
        if self.fixed is not None and self.fixed.place is not None:
            end = self.fixed.place + len(self.fixed.value)
            if place < end and place + size > self.fixed.place:
                place = end + end % 2
        self._write(place, bytes(size))
        return place

    def _write(self, place: int, value: bytes) -> None:
        end = place - self.start + len(value)
        self.bytes.extend(bytes(max(0, end - len(self.bytes))))
        self.bytes[place - self.start : end] = value
