"""How many bits per channel a file has of which Pillow reads 8: AVIF, HEIF and JPEG 2000."""

from __future__ import annotations

from pathlib import Path

_MOST_BYTES = 1 << 16
_CODESTREAM = b"\xff\x4f\xff\x51"


def bits_of(path: Path, format: str | None) -> int:
    """Read the bits per channel from the beginning of a file; 8 if it does not say, or is of another format.

    Args:
        path: the file.
        format: Pillow's name of its format.
    """
    if format not in ("AVIF", "HEIF", "JPEG2000"):
        return 8
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES)
    return _of_codestream(content) if format == "JPEG2000" else _of_boxes(content)


def _of_boxes(content: bytes) -> int:
    """Take the most bits that a box `pixi` says: four bytes, the number of channels, and the bits of each."""
    found, at = [8], 0
    while (at := content.find(b"pixi", at) + 4) > 3:
        channels = content[at + 5 : at + 5 + min(content[at + 4], 4)] if at + 4 < len(content) else b""
        found += [bits for bits in channels if bits <= 16]
    return max(found)


def _of_codestream(content: bytes) -> int:
    """Take the bits of the first channel, less one, behind 38 bytes of sizes."""
    at = content.find(_CODESTREAM)
    place = at + len(_CODESTREAM) + 38
    return (content[place] & 0x7F) + 1 if at >= 0 and place < len(content) else 8
