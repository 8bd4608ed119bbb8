"""Write colours of 16 bits per channel to PNG and TIFF files; Pillow writes those of grey alone."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import png
from .bands import bands
from .tags import Directory, Entry, data, long, short, write_tags

_PAETH = 4


def write_png(path: Path, pixels: NDArray[np.uint16], **options: Any) -> None:
    """Write a PNG.

    Args:
        path: the file.
        pixels: `[height, width, 3]`, or 4 channels with transparency.
        options: those of Pillow's `save` for what goes with the pixels.
    """
    height, width, channels = pixels.shape
    around = io.BytesIO()
    Image.new("RGB" if channels == 3 else "RGBA", (1, 1)).save(around, "PNG", **options)
    with path.open("wb") as file:
        file.write(png.SIGNATURE)
        for kind, content in png.all_chunks(around):
            if kind == b"IHDR":
                png.write_chunk(file, kind, struct.pack(">II", width, height) + b"\x10" + content[9:])
            elif kind == b"IDAT":
                for part in _compressed(pixels):
                    png.write_chunk(file, kind, part)
            else:
                png.write_chunk(file, kind, content)


def _compressed(pixels: NDArray[np.uint16]) -> Iterator[bytes]:
    stream = zlib.compressobj()
    height, width, channels = pixels.shape
    above = np.zeros((1, width * channels * 2), np.uint8)
    for _, top, _, bottom in bands((width, height)):
        rows = pixels[top:bottom].astype(">u2").view(np.uint8).reshape(bottom - top, -1)
        yield stream.compress(_filtered(rows, np.concatenate([above, rows[:-1]]), 2 * channels))
        above = rows[-1:]
    yield stream.flush()


def _filtered(rows: NDArray[np.uint8], above: NDArray[np.uint8], pixel: int) -> bytes:
    """Give what is left of rows of bytes after Paeth's prediction, each after the number of its filter."""
    up = above.astype(np.int16)
    left, corner = (np.pad(each, ((0, 0), (pixel, 0)))[:, :-pixel].astype(np.int16) for each in (rows, above))
    of_left, of_up, of_corner = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
    predicted = np.where(
        (of_left <= of_up) & (of_left <= of_corner), left, np.where(of_up <= of_corner, up, corner)
    ).astype(np.uint8)
    return np.pad(rows - predicted, ((0, 0), (1, 0)), constant_values=_PAETH).tobytes()


def write_tiff(path: Path, pixels: NDArray[np.uint16], icc_profile: bytes | None = None) -> None:
    """Write a TIFF, not compressed.

    Args:
        path: the file.
        pixels: `[height, width, 3]`, or 4 channels with transparency.
        icc_profile: their colour profile.
    """
    height, width, channels = pixels.shape
    row = 2 * channels * width
    strips = [(top, bottom) for _, top, _, bottom in bands((width, height))]
    start = 8
    main: Directory = {
        256: long("<", width),
        257: long("<", height),
        258: Entry(3, channels, struct.pack("<H", 16) * channels),
        259: short("<", 1),
        262: short("<", 2),
        273: _longs([start + top * row for top, _ in strips]),
        277: short("<", channels),
        278: long("<", strips[0][1]),
        279: _longs([(bottom - top) * row for top, bottom in strips]),
        284: short("<", 1),
    }
    if channels == 4:
        main[338] = short("<", 2)
    if icc_profile is not None:
        main[34675] = data(icc_profile)
    end = start + height * row
    directory, place = write_tags(main, "<", end)
    with path.open("wb") as file:
        file.write(b"II" + struct.pack("<HI", 42, place))
        for top, bottom in strips:
            file.write(pixels[top:bottom].astype("<u2").tobytes())
        file.write(directory)


def _longs(values: list[int]) -> Entry:
    return Entry(4, len(values), struct.pack(f"<{len(values)}I", *values))
