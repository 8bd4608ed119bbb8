"""Pixels of 16 bits per channel, of which Pillow by itself reads 8 where there are three channels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import kinds, lab, tiff_kinds
from .bands import bands
from .decoding import open_image, upright

WHITE = 65535
_OTHER = "16B" if sys.byteorder == "little" else "16L"
# Pillow's names of how pixels are stored: those that give their higher bytes, and their lower ones. The latter are
# what it takes for the higher ones where it is told the other order of bytes.
_RAW_MODES = {
    f"{colours};{stored}": (f"{colours.replace('a', 'A')};{stored}", f"{colours.replace('a', 'A')};{other}")
    for colours in ("RGB", "RGBA", "RGBa", "RGBX")
    for stored, other in (("16L", "16B"), ("16B", "16L"), ("16N", _OTHER))
}


class Deep(NamedTuple):
    """An image with 16 bits per channel, upright."""

    colours: NDArray[np.uint16]
    """`[height, width, 3]`, or `[height, width]` of grey."""
    alpha: NDArray[np.uint16] | None
    """Its transparency, `[height, width]`, or None if it has none."""

    def is_grey(self) -> bool:
        """Whether it has no colour."""
        if self.colours.ndim == 2:
            return True
        return all((row == row[..., :1]).all() for row in self.colours)


class Stored(NamedTuple):
    """How pixels of 16 bits are stored."""

    lower: list[Any] | None
    """What Pillow has to be told to read the lower bytes; None if it reads all of a single channel at once."""
    is_multiplied: bool = False
    """Whether colours have been multiplied by their transparency."""


def find_deep(image: Image.Image) -> Stored | None:
    """Find out, before an opened file is decoded, how its pixels of 16 bits can be read.

    Returns:
        What `decode_deep` needs, or None if there are no such pixels, or Pillow cannot read more than 8 of their bits.
    """
    if image.mode.startswith("I"):
        return None if "transparency" in image.info else Stored(None)
    tiles = [_as_raw(tile) for tile in getattr(image, "tile", [])]
    names = {_raw_mode(tile) for tile in tiles}
    name = names.pop() if len(names) == 1 else ""
    meaning = image.info.get(kinds.MEANING)
    is_apart = getattr(image, "_planar_configuration", 1) == 2  # then the name is not followed
    if name not in _RAW_MODES or is_apart or meaning in tiff_kinds.GREY_WITH_ALPHA:
        return None
    higher, lower = _RAW_MODES[name]
    image.tile = [_told(tile, higher) for tile in tiles]  # type: ignore[attr-defined]
    return Stored([_told(tile, lower) for tile in tiles], name.startswith("RGBa"))


def decode_deep(image: Image.Image, file: Path, stored: Stored) -> Deep:
    """Decode an opened file in 16 bits per channel, and turn it upright as its EXIF data says.

    Args:
        image: the file as it has been opened.
        file: its path.
        stored: what `find_deep` has found.

    Raises:
        ValueError: if it has pixels of unknown range, of 32 bits.
    """
    meaning, key = image.info.get(kinds.MEANING), image.info.get("transparency")
    if stored.lower is None:
        image = upright(image)
        grey = np.empty((image.height, image.width), np.uint16)
        for box in bands(image.size):
            grey[box[1] : box[3]] = kinds.values_of_grey(image.crop(box), meaning)
        image.close()  # its memory is needed
        return Deep(grey, None)
    higher = upright(image)
    size, has_alpha = higher.size, higher.mode == "RGBA"
    values = np.empty((size[1], size[0], len(higher.mode)), np.uint16)
    for box in bands(size):
        values[box[1] : box[3]] = np.asarray(higher.crop(box))
    higher.close()  # its memory is needed
    with open_image(file) as again:
        again.tile = stored.lower  # type: ignore[attr-defined]
        lower = upright(again)
        alpha = np.empty(values.shape[:2], np.uint16) if has_alpha or key is not None else None
        for box in bands(size):
            rows = values[box[1] : box[3]]
            rows <<= 8
            rows |= np.asarray(lower.crop(box))
            if alpha is not None:
                opacity = rows[..., 3] if has_alpha else np.where((rows == key).all(axis=-1), 0, WHITE)
                alpha[box[1] : box[3]] = opacity
            rows[..., :3] = _colours(rows, meaning, stored.is_multiplied)
        lower.close()
    return Deep(values[..., :3], alpha)


def in_8_bits(values: NDArray[np.uint16]) -> Image.Image:
    """Round pixels `[height, width]` or `[height, width, 3]` to 8 bits."""
    image = Image.new("L" if values.ndim == 2 else "RGB", (values.shape[1], values.shape[0]))
    for box in bands(image.size):
        band = values[box[1] : box[3]].astype(np.uint32)
        image.paste(Image.fromarray(((band + 128) // 257).astype(np.uint8)), box)
    return image


def in_16_bits(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Round pixels in [0, 1] to 16 bits."""
    rounded = np.empty(values.shape, np.uint16)
    for _, top, _, bottom in bands((values.shape[1], values.shape[0])):
        rounded[top:bottom] = (values[top:bottom].clip(0, 1) * WHITE).round()
    return rounded


def luminance(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Give the grey `[height, width]` of colours `[height, width, 3]`, by the weights of Pillow's mode "L"."""
    grey = np.empty(values.shape[:2], np.uint16)
    for _, top, _, bottom in bands((values.shape[1], values.shape[0])):
        grey[top:bottom] = (values[top:bottom] @ np.array([0.299, 0.587, 0.114])).round()
    return grey


def resized(values: NDArray[np.uint16], size: tuple[int, int]) -> NDArray[np.uint16]:
    """Resize one channel bicubically to a width and a height."""
    image = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image).round().clip(0, WHITE).astype(np.uint16)


def _colours(values: NDArray[np.uint16], meaning: str | None, is_multiplied: bool) -> NDArray[Any]:
    if meaning == tiff_kinds.LAB:
        a, b = (values[..., channel].view(np.int16).astype(np.float64) / 256 for channel in (1, 2))
        return (lab.to_srgb(values[..., 0] * (100 / WHITE), a, b) * WHITE).round()
    if is_multiplied:
        alpha = values[..., 3:].astype(np.int64)
        return np.minimum((values[..., :3] * np.int64(WHITE) + alpha // 2) // np.maximum(alpha, 1), WHITE)
    return values[..., :3]


def _raw_mode(tile: Any) -> str:
    args = tile[3]
    return str(args if isinstance(args, str) else (args or ("",))[0])


def _as_raw(tile: Any) -> Any:
    """Have a PPM, whose pixels of 16 bits Pillow scales to 8, read as the bytes that it consists of."""
    is_ppm = tuple(tile[:1]) == ("ppm",) and tuple(tile[3]) == ("RGB", 65535)
    return type(tile)._make(("raw", *tile[1:3], ("RGB;16B", 0, 1))) if is_ppm else tile


def _told(tile: Any, raw_mode: str) -> Any:
    """Give the part of a file with another name of how its pixels are stored."""
    args = raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:])
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)
