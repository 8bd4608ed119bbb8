"""The colours of a PNG that says what they mean by its gamma and primaries, as a colour profile."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_SRGB_GAMMA = 0.45455
# x and y of white, red, green and blue.
_SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_ALIKE = 0.002
# From colours as they look under one white to how they look under another.
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])


def profile_of(chunks: Mapping[bytes, bytes], is_grey: bool) -> bytes | None:
    """Make the colour profile that chunks of a PNG amount to, or None if its colours are those of sRGB.

    Args:
        chunks: `gAMA`, `cHRM` and `sRGB` by name.
        is_grey: whether the pixels have one channel.

    Raises:
        ValueError: if their values are not those of colours.
    """
    if b"sRGB" in chunks or b"gAMA" not in chunks:  # primaries alone are followed by nobody
        return None
    gamma = _numbers(chunks[b"gAMA"], 1)[0]
    primaries = _numbers(chunks[b"cHRM"], 8) if b"cHRM" in chunks else _SRGB_PRIMARIES
    if not 0.05 <= gamma <= 5:
        raise ValueError(f"a gamma of {gamma}")
    if abs(gamma - _SRGB_GAMMA) < _ALIKE and (is_grey or np.allclose(primaries, _SRGB_PRIMARIES, atol=_ALIKE)):
        return None
    return _profile(1 / gamma, None if is_grey else _colorants(primaries))


def _numbers(content: bytes, count: int) -> tuple[float, ...]:
    if len(content) != 4 * count:
        raise ValueError("too short or too long")
    return tuple(number / 100000 for number in struct.unpack(f">{count}I", content))


def _colorants(primaries: tuple[float, ...]) -> NDArray[np.float64]:
    """Compute the colours of red, green and blue under D50, one a column."""
    if min(primaries[1::2]) <= 0:
        raise ValueError("a primary without brightness")
    x, y = np.array(primaries[::2]), np.array(primaries[1::2])
    white, *_ = colours = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)
    columns = colours[1:].T
    try:
        columns = columns * np.linalg.solve(columns, white)
    except np.linalg.LinAlgError as error:
        raise ValueError("primaries on one line") from error
    adapted = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD @ columns
    if not (np.abs(adapted) < 100).all():
        raise ValueError("primaries that are far too bright")
    return adapted


def _profile(exponent: float, colorants: NDArray[np.float64] | None) -> bytes:
    """Write a profile of version 2: the exponent of all channels, and the colorants unless it is one of grey."""
    name = b"Gamma of a PNG\0"
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256)) + bytes(2)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78),
        b"cprt": b"text" + bytes(4) + b"CC0\0",
        b"wtpt": _xyz(_D50),
    }
    if colorants is None:
        tags[b"kTRC"] = curve
    else:
        for channel, colorant in zip((b"r", b"g", b"b"), colorants.T, strict=True):
            tags |= {channel + b"XYZ": _xyz(colorant), channel + b"TRC": curve}
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    space = b"GRAY" if colorants is None else b"RGB "
    head = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
    return head.ljust(68, b"\0") + _xyz(_D50)[8:] + bytes(48) + table + body


def _xyz(colour: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(value) * 65536) for value in colour))
