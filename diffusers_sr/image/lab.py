"""Colours in CIELAB, as printers and Photoshop store them, as sRGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The white that CIELAB is relative to in files, D50.
_WHITE = np.array([0.9642, 1.0, 0.8249])
# From XYZ under D50 to linear sRGB, adapted to its white of D65 by Bradford's transform.
_TO_LINEAR = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)


def to_srgb(
    lightness: NDArray[np.floating[Any]], a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Convert colours to sRGB, `[..., 3]` in [0, 1]; those that it does not have become the nearest in each channel.

    Args:
        lightness: L*, from 0 to 100.
        a, b: a* and b*, of the same shape.
    """
    middle = (lightness + 16) / 116
    roots = np.stack([middle + a / 500, middle, middle - b / 200], axis=-1)
    xyz = np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * 3 * (6 / 29) ** 2) * _WHITE
    linear = (xyz @ _TO_LINEAR.T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
