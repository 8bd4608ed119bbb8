"""The metadata that each format can carry, and what it takes to write it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Any

from PIL.PngImagePlugin import PngInfo

from . import iptc, png, xmp
from .exif import Exif, for_result, to_bytes
from .metadata import Metadata
from .record import KEYWORD, with_record, without_record

_MOST_IN_SEGMENT = 65533
_XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_IN_TIFF, _IPTC_IN_TIFF = 700, 33723


@dataclass
class Carried:
    """What a file of a result carries besides pixels and colour profile."""

    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of Pillow's `save`."""
    exif: Exif | None = None
    tags: dict[int, bytes] = field(default_factory=dict)
    """For the first directory of a TIFF, with the EXIF data, after Pillow has saved it."""
    lost: list[str] = field(default_factory=list)
    """What the format cannot carry, in words."""


def carry(metadata: Metadata, name: str, size: tuple[int, int], record: str | None = None) -> Carried:
    """Prepare the metadata of a photograph for a result.

    Args:
        metadata: that of the photograph.
        name: Pillow's name of the format that is written.
        size: width and height of the result.
        record: the settings that the result was made with, an ASCII text, instead of those of a photograph that is
            itself a result. A PNG has it among its texts, other formats in XMP data, and a BMP nowhere.
    """
    if record is not None:
        metadata = without_record(metadata)
    packet = None if metadata.xmp is None else xmp.for_result(metadata.xmp, size)
    if record is None or name == "BMP":
        return _CARRIERS[name](metadata, packet, size)
    if name == "PNG":
        text = (b"tEXt", KEYWORD + b"\0" + record.encode("ascii"))
        return _png(replace(metadata, texts=[*metadata.texts, text]), packet, size)
    recorded = with_record(packet, record)
    if recorded is None or (name == "JPEG" and len(_XMP_IN_JPEG + recorded) > _MOST_IN_SEGMENT):
        carried = _CARRIERS[name](metadata, packet, size)
        carried.lost.append("record of the settings")
        return carried
    return _CARRIERS[name](metadata, recorded, size)


def _png(metadata: Metadata, packet: bytes | None, size: tuple[int, int]) -> Carried:
    carried = Carried(exif=for_result(metadata.exif, size))
    info = PngInfo()
    for kind, content in metadata.colours.items():
        info.add(kind, content)
    for kind, content in metadata.texts:
        info.add(kind, content)
    for comment in metadata.comments:
        info.add_text("Comment", _text(comment))
    if packet is not None:
        info.add_itxt("XML:com.adobe.xmp", packet)
    if metadata.iptc is not None:
        info.add(*png.raw_profile("iptc", iptc.in_resource(metadata.iptc)))
    if info.chunks:
        carried.options["pnginfo"] = info
    if carried.exif is not None:
        carried.options["exif"] = to_bytes(carried.exif)
    if metadata.dpi is not None:
        carried.options["dpi"] = metadata.dpi
    if metadata.more_xmp:
        carried.lost.append("extended XMP data")
    return carried


def _jpeg(metadata: Metadata, packet: bytes | None, size: tuple[int, int]) -> Carried:
    carried = Carried(exif=for_result(metadata.exif, size))
    segments: list[tuple[int, bytes, str]] = []
    if packet is not None:
        segments.append((0xE1, _XMP_IN_JPEG + packet, "XMP data"))
        segments += [(0xE1, content, "extended XMP data") for content in metadata.more_xmp]
    if metadata.iptc is not None:
        segments.append((0xED, iptc.in_segment(metadata.iptc), "IPTC data"))
    comments = [(b"Comment", comment) for comment in metadata.comments]
    comments += [(png.keyword(content), png.text(kind, content)) for kind, content in metadata.texts]
    others = [keyword for keyword, _ in comments if keyword != b"Comment"]
    segments += [(0xFE, comment, "comment") for keyword, comment in comments if keyword == b"Comment" and comment]
    carried.options["comment"] = b""  # Pillow writes a single one, or that which the image was opened with
    carried.options["extra"] = b"".join(
        struct.pack(">BBH", 0xFF, kind, len(content) + 2) + content
        for kind, content, _ in segments
        if len(content) <= _MOST_IN_SEGMENT
    )
    carried.lost += [what for _, content, what in segments if len(content) > _MOST_IN_SEGMENT]
    if carried.exif is not None:
        content = to_bytes(carried.exif)
        if len(content) <= _MOST_IN_SEGMENT:
            carried.options["exif"] = content
        else:
            carried.lost.append("EXIF data")
    if metadata.dpi is not None:
        carried.options["dpi"] = metadata.dpi
    carried.lost += _named_texts(others) + _meaning_of_colours(metadata)
    return carried


def _webp(metadata: Metadata, packet: bytes | None, size: tuple[int, int]) -> Carried:
    carried = Carried(exif=for_result(metadata.exif, size, metadata.dpi))
    if packet is not None:
        carried.options["xmp"] = packet
    if carried.exif is not None:
        carried.options["exif"] = to_bytes(carried.exif)
    carried.lost = (
        _without_place(metadata) + ["comment"] * bool(metadata.comments) + ["IPTC data"] * bool(metadata.iptc)
    )
    return carried


def _tiff(metadata: Metadata, packet: bytes | None, size: tuple[int, int]) -> Carried:
    comment = b"\n".join(metadata.comments).replace(b"\0", b" ") or None
    carried = Carried(exif=for_result(metadata.exif, size, metadata.dpi, comment, is_tiff=True))
    if packet is not None:
        carried.tags[_XMP_IN_TIFF] = packet
    if metadata.iptc is not None:
        carried.tags[_IPTC_IN_TIFF] = metadata.iptc
    carried.lost = _without_place(metadata)
    return carried


def _bmp(metadata: Metadata, packet: bytes | None, size: tuple[int, int]) -> Carried:
    carried = Carried(options={} if metadata.dpi is None else {"dpi": metadata.dpi})
    carried.lost = ["XMP data"] * bool(packet) + ["IPTC data"] * bool(metadata.iptc)
    carried.lost += ["comment"] * bool(metadata.comments) + _without_place(metadata)
    return carried


# AVIF files have the same places as WebP files.
_CARRIERS = {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp, "AVIF": _webp, "TIFF": _tiff, "BMP": _bmp}


def _without_place(metadata: Metadata) -> list[str]:
    """Name what only a JPEG or a PNG has a place for."""
    names = _named_texts([png.keyword(content) for _, content in metadata.texts])
    return ["extended XMP data"] * bool(metadata.more_xmp) + names + _meaning_of_colours(metadata)


def _named_texts(keywords: list[bytes]) -> list[str]:
    if not keywords:
        return []
    names = ", ".join(keyword.decode("latin-1") for keyword in keywords[:5])
    return [f"texts ({names}{', …' if len(keywords) > 5 else ''})"]


def _meaning_of_colours(metadata: Metadata) -> list[str]:
    return ["colour space (cICP)"] if b"cICP" in metadata.colours else []


def _text(comment: bytes) -> str:
    comment = comment.replace(b"\0", b" ").strip()
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")
