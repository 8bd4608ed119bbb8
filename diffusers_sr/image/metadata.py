"""The metadata of a photograph's file, from wherever each format has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.ExifTags import Base

from . import iptc, packets, png, xmp
from .exif import Exif, Read, read_exif, read_tiff, turned
from .gamma import profile_of

MOST_BYTES = 16 << 20
_XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_MORE_XMP_IN_JPEG = b"http://ns.adobe.com/xmp/extension/\0"

_CREDENTIALS = "has content credentials (C2PA), which are not kept: they are those of the pixels as they were"


@dataclass
class Metadata:
    """The metadata of a photograph."""

    exif: Exif | None = None
    xmp: bytes | None = None
    more_xmp: list[bytes] = field(default_factory=list)
    """Segments of a JPEG with XMP that was too long for one."""
    iptc: bytes | None = None
    comments: list[bytes] = field(default_factory=list)
    """Comments of a JPEG, GIF or JPEG 2000."""
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Texts of a PNG: the kind of chunk, and its content."""
    colours: dict[bytes, bytes] = field(default_factory=dict)
    """Chunks that say what the colours of a PNG mean."""
    gamma_profile: bytes | None = None
    """Colour profile that these amount to, if they are not those of sRGB."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch of width and height."""
    notes: list[str] = field(default_factory=list)
    """What is not kept, in words."""


def read_metadata(image: Image.Image, path: Path, is_grey: bool) -> Metadata:
    """Read the metadata of a photograph.

    Damaged, and huge, parts are left out, with a note.

    Args:
        image: the photograph as Pillow has opened it.
        path: its file.
        is_grey: whether it stores one channel.
    """
    found = Metadata(dpi=_dpi(image))
    width, height = image.info.get("jfif_density" if image.info.get("jfif_unit") == 0 else "aspect", (1, 1))
    if width != height:
        found.notes.append(f"has pixels that are not square ({width}:{height}), which is not kept")
    exif = _bytes(image.info.get("exif"))
    if image.format in ("JPEG", "MPO"):
        _of_jpeg(found, image)
    elif image.format == "TIFF":
        _of_tiff(found, path)
    elif image.format == "PNG":
        exif = _of_png(found, path, is_grey) or exif
    else:
        found.xmp = _bytes(image.info.get("xmp"))
        found.comments = [comment for comment in [_bytes(image.info.get("comment"))] if comment]
        exif = _of_others(found, image, path) or exif
    if exif:
        _take_exif(found, read_exif(exif))
    _leave_out_damage(found)
    return found


def turn(metadata: Metadata) -> None:
    """Exchange what is said of width and of height."""
    if metadata.dpi is not None:
        metadata.dpi = metadata.dpi[::-1]
    if metadata.exif is not None:
        metadata.exif = turned(metadata.exif)


def _bytes(value: Any) -> bytes | None:
    return value if isinstance(value, bytes) and value else None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Give the resolution, unless Pillow has made it up."""
    info = image.info
    if "exif" in info and info.get("jfif_unit") not in (1, 2) and info.get("dpi") == (72, 72):
        return None
    if image.format == "TIFF" and Base.XResolution not in getattr(image, "tag_v2", {}):
        return None
    try:
        width, height = map(float, info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (width, height) if 0 < width < 1 << 16 and 0 < height < 1 << 16 else None


def _of_jpeg(found: Metadata, image: Image.Image) -> None:
    segments: list[tuple[str, bytes]] = getattr(image, "applist", [])
    for name, content in segments:
        if name == "COM" and content:
            found.comments.append(content)
        elif name == "APP1" and content.startswith(_XMP_IN_JPEG):
            found.xmp = content[len(_XMP_IN_JPEG) :]
        elif name == "APP1" and content.startswith(_MORE_XMP_IN_JPEG):
            found.more_xmp.append(content)
        elif name == "APP11" and b"c2pa" in content and _CREDENTIALS not in found.notes:
            found.notes.append(_CREDENTIALS)
    found.iptc = iptc.of_segments([content for name, content in segments if name == "APP13"])


def _of_tiff(found: Metadata, path: Path) -> None:
    with path.open("rb") as file:
        read = read_tiff(file)
    _take_exif(found, read)
    if read.unknown:
        tags = ", ".join(map(str, sorted(read.unknown)[:10]))
        found.notes.append(f"has private TIFF tags ({tags}), which are not kept")


def _take_exif(found: Metadata, read: Read) -> None:
    found.exif = read.exif
    if read.damaged:
        found.notes.append("has damaged EXIF data, which is not kept")
    found.xmp = found.xmp or read.xmp
    found.iptc = found.iptc or read.iptc or (iptc.of_resources(read.photoshop) if read.photoshop else None)


def _of_png(found: Metadata, path: Path, is_grey: bool) -> bytes | None:
    """Take what is in a PNG's chunks; give its EXIF data."""
    exif: bytes | None = None
    raw: dict[str, bytes] = {}
    damaged: set[str] = set()
    size = 0
    with path.open("rb") as file:
        for chunk in png.chunks(file):
            name = chunk.kind.decode("latin-1")
            if not chunk.is_sound:
                damaged.add(name)
            elif chunk.kind == b"caBX":
                found.notes.append(_CREDENTIALS)
            elif chunk.kind == b"eXIf":
                exif = chunk.content
            elif chunk.kind in png.COLOURS:
                found.colours[chunk.kind] = chunk.content
            elif chunk.kind in png.TEXTS:
                profile = png.profile(chunk)
                size += len(chunk.content)
                if size > MOST_BYTES:
                    damaged.add(name)
                elif profile is None:
                    found.texts.append((chunk.kind, chunk.content))
                elif not profile[1]:
                    damaged.add(name)
                else:
                    raw[profile[0]] = profile[1]
    if damaged:
        found.notes.append(f"has damaged or huge PNG chunks ({', '.join(sorted(damaged))}), which are not kept")
    found.xmp = raw.pop("xmp", None)
    resources = raw.pop("iptc", None)
    if resources:
        found.iptc = iptc.of_resources(resources) or resources
    exif = exif or raw.pop("exif", None) or raw.pop("APP1", None)
    if others := sorted(raw.keys() - {"exif", "APP1"}):
        found.notes.append(f"has raw profiles in texts ({', '.join(others)}), which are not kept")
    try:
        found.gamma_profile = profile_of(found.colours, is_grey)
    except ValueError:
        found.notes.append("has a damaged gamma or primaries, which are not kept")
        found.colours = {}
    return exif


def _of_others(found: Metadata, image: Image.Image, path: Path) -> bytes | None:
    """Take what Pillow does not look for in a GIF or JPEG 2000; give its EXIF data."""
    if image.format not in ("GIF", "JPEG2000"):
        return None
    with path.open("rb") as file:
        if image.format == "GIF":
            found.xmp = packets.of_gif(file, MOST_BYTES)
            return None
        others = packets.of_jpeg_2000(file, MOST_BYTES)
    found.xmp, found.iptc = others.get("xmp"), others.get("iptc")
    return others.get("exif")


def _leave_out_damage(found: Metadata) -> None:
    if found.xmp is not None:
        found.xmp = found.xmp.rstrip(b"\0")
        if not xmp.is_xmp(found.xmp) or len(found.xmp) > MOST_BYTES:
            found.xmp, found.more_xmp = None, []
            found.notes.append("has damaged or huge XMP data, which is not kept")
    if found.iptc is not None:
        sound = iptc.sound(found.iptc)
        if found.iptc[len(sound) :].strip(b"\0"):
            found.notes.append("has damaged IPTC data, which is not kept")
        found.iptc = sound or None
    if sum(map(len, found.comments)) > MOST_BYTES:
        found.comments = []
        found.notes.append("has a huge comment, which is not kept")
