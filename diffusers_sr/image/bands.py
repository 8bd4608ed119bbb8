"""Images in bands, for work that needs more memory than the image."""

from __future__ import annotations

from collections.abc import Iterator


def bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Divide an image into bands of about a million pixels: left, top, right and bottom of each.

    Args:
        size: its width and height.
    """
    width, height = size
    rows = max(1, (1 << 20) // max(width, 1))
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)
