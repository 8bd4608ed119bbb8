"""The EXIF data that a photograph keeps: every value as the bytes it was, except for what is wrong of the result."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO, NamedTuple

from PIL import Image
from PIL.ExifTags import Base

from .tags import (
    EXIF,
    GPS,
    INTEROP,
    MAKER_NOTE,
    Directory,
    Entry,
    data,
    fraction,
    in_order,
    long,
    read_tags,
    short,
    swapped,
    text,
    write_tags,
)

_HEADER = b"Exif\0\0"
_XMP, _IPTC, _PHOTOSHOP = 700, 33723, 34377
_DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION, _UNIT = 270, 282, 283, 296
# Tags of a TIFF's first directory that are about the photograph. Others say how that one file stores its pixels, or
# would be wrong of larger ones, as the coordinates of a map.
_DESCRIPTIVE = frozenset(
    (
        *(269, 270, 271, 272, 282, 283, 285, 296, 305, 306, 315, 316, 18246, 18249, 33432),
        *range(40091, 40096),
        EXIF,
        GPS,
    )
)
# Tags that say how a TIFF stores its pixels, where its previews are, or hold what is read in another place.
_STORAGE = frozenset(
    (
        *(*range(254, 260), *range(262, 267), 273, 274, *range(277, 282), 284, *range(290, 294), 301, 317),
        *(*range(320, 326), 330, *range(332, 335), *range(336, 348), *range(512, 522)),
        *(_XMP, _IPTC, _PHOTOSHOP, 34675, 37724),
    )
)
# What a TIFF says of YCbCr pixels; EXIF data of other formats has them, too.
_OF_COLOUR = frozenset((529, 530, 531, 532))
# Where the subject is, in pixels of the photograph as it was.
_PLACES = frozenset((Base.SubjectLocation, 0x9214))
_SIZES = {EXIF: (Base.ExifImageWidth, Base.ExifImageHeight), INTEROP: (0x1001, 0x1002)}


class Exif(NamedTuple):
    """EXIF data without what is wrong of any result: orientation, previews, and how pixels were stored."""

    order: str
    """Its byte order, as `struct` writes it."""
    main: Directory


class Read(NamedTuple):
    """The EXIF data of a file, and what a TIFF's first directory holds besides."""

    exif: Exif | None
    damaged: bool
    """Whether some or all of it could not be read."""
    xmp: bytes | None = None
    iptc: bytes | None = None
    photoshop: bytes | None = None
    unknown: tuple[int, ...] = ()
    """A TIFF's private tags, which are not read."""


def read_exif(content: bytes) -> Read:
    """Read EXIF data as it stands in an image file of any format except TIFF."""
    while content.startswith(_HEADER):
        content = content[len(_HEADER) :]
    return _read(io.BytesIO(content)) if content else Read(None, False)


def read_tiff(file: BinaryIO) -> Read:
    """Read what the first directory of a TIFF file says about the photograph."""
    return _read(file, _DESCRIPTIVE | {_XMP, _IPTC, _PHOTOSHOP})


def _read(file: BinaryIO, wanted: frozenset[int] | None = None) -> Read:
    try:
        order, main, damaged, left_out = read_tags(file, wanted)
    except ValueError:
        return Read(None, True)
    xmp, iptc, photoshop = (_bytes_of(main.get(tag), order) for tag in (_XMP, _IPTC, _PHOTOSHOP))
    kept = {tag: entry for tag, entry in main.items() if tag not in _STORAGE}
    sound = _sound(kept, order, ())
    damaged = damaged or _count(sound) < _count(kept)
    if wanted is not None:
        _forget_places(sound)
    unknown = tuple(tag for tag in left_out if tag >= 1 << 15 and tag not in _STORAGE)
    return Read(Exif(order, sound) if sound else None, damaged, xmp, iptc, photoshop, unknown)


def _bytes_of(entry: Entry | Directory | None, order: str) -> bytes | None:
    """Give the bytes of an entry; some programs store them as numbers of 32 bits."""
    if not isinstance(entry, Entry):
        return None
    if entry.kind == 4 and order == "<" and entry.value[3:4] == b"\x1c":
        return swapped(entry)
    return entry.value


def _sound(directory: Directory, order: str, above: tuple[int, ...]) -> Directory:
    """Leave out the entries that Pillow, as one of those who will read them, cannot read and write."""
    sound: Directory = {}
    for tag, entry in directory.items():
        if isinstance(entry, dict):
            if below := _sound(entry, order, (*above, tag)):
                sound[tag] = below
        elif _is_sound(tag, entry, order, above):
            sound[tag] = entry
    return sound


def _is_sound(tag: int, entry: Entry, order: str, above: tuple[int, ...]) -> bool:
    single: Directory = {tag: entry}
    for directory in reversed(above):
        single = {directory: single}
    try:
        exif = Image.Exif()
        exif.load(to_bytes(Exif(order, single)))
        exif.tobytes()
    except Exception:  # damaged data can lead to any error
        return False
    return True


def _count(directory: Directory) -> int:
    return sum(_count(entry) if isinstance(entry, dict) else 1 for entry in directory.values())


def _forget_places(directory: Directory) -> None:
    for tag, entry in directory.items():
        if isinstance(entry, dict):
            _forget_places(entry)
        else:
            directory[tag] = entry._replace(place=None)


def for_result(
    exif: Exif | None,
    size: tuple[int, int],
    dpi: tuple[float, float] | None = None,
    comment: bytes | None = None,
    is_tiff: bool = False,
) -> Exif | None:
    """Make the EXIF data of a result.

    Args:
        exif: that of the photograph.
        size: width and height of the result.
        dpi: the resolution, for files that say it nowhere else.
        comment: a description, for files that have no place for a comment.
        is_tiff: whether it is for the first directory of a TIFF file, which says itself how pixels are stored.
    """
    order = "<" if exif is None else exif.order
    main = {} if exif is None else _resized(exif.main, 0, order, size)
    if is_tiff:
        main = {tag: entry for tag, entry in main.items() if tag not in _OF_COLOUR}
    if dpi is not None and not {_X_RESOLUTION, _Y_RESOLUTION} & main.keys():
        main |= {
            _X_RESOLUTION: fraction(order, dpi[0]),
            _Y_RESOLUTION: fraction(order, dpi[1]),
            _UNIT: short(order, 2),
        }
    if comment is not None and _DESCRIPTION not in main:
        main[_DESCRIPTION] = text(comment)
    return Exif(order, main) if main else None


def _resized(directory: Directory, own: int, order: str, size: tuple[int, int]) -> Directory:
    sizes = dict(zip(_SIZES.get(own, ()), size, strict=False))
    return {
        tag: _resized(entry, tag, order, size)
        if isinstance(entry, dict)
        else long(order, sizes[tag])
        if tag in sizes
        else entry
        for tag, entry in directory.items()
        if tag not in _PLACES
    }


def turned(exif: Exif) -> Exif:
    """Exchange the resolutions of width and height."""
    main = dict(exif.main)
    resolutions = main.pop(_X_RESOLUTION, None), main.pop(_Y_RESOLUTION, None)
    main |= {tag: entry for tag, entry in zip((_Y_RESOLUTION, _X_RESOLUTION), resolutions, strict=True) if entry}
    return exif._replace(main=main)


def to_bytes(exif: Exif) -> bytes:
    """Write EXIF data as it stands in a JPEG."""
    nested = exif.main.get(EXIF)
    note = nested.get(MAKER_NOTE) if isinstance(nested, dict) else None
    content, place = write_tags(exif.main, exif.order, 8, note if isinstance(note, Entry) else None)
    mark = {"<": b"II", ">": b"MM"}[exif.order]
    return _HEADER + mark + struct.pack(exif.order + "HI", 42, place) + content


def add_to_tiff(file: BinaryIO, exif: Exif | None, others: dict[int, bytes]) -> None:
    """Add to the first directory of a TIFF file what it does not say yet.

    Args:
        file: the file, open for reading and writing.
        exif: EXIF data.
        others: bytes by tag.
    """
    tags = read_tags(file)
    main: Directory = {} if exif is None else in_order(exif.main, exif.order, tags.order)
    main |= {tag: data(value) for tag, value in others.items()} | tags.main
    end = file.seek(0, 2)
    file.write(bytes(end % 2))
    content, place = write_tags(main, tags.order, end + end % 2)
    file.write(content)
    file.seek(4)
    file.write(struct.pack(tags.order + "I", place))
