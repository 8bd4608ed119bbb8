"""Colours for what is transparent in an image, where a file may have stored any."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .reader import Photo

_OWN = 16  # from this transparency on, a pixel's own colour can be seen


def shown(photo: Photo) -> Image.Image | NDArray[np.uint16]:
    """Give the pixels of a photograph that a model sees: RGB, or an array of its 16 bits per channel."""
    image = photo.image if photo.alpha is None else under_transparency(photo.image, photo.alpha)
    if photo.deep is None:
        return image
    if photo.alpha is None or image is photo.image:
        return photo.deep.colours
    is_own = np.asarray(photo.alpha)[..., None] >= _OWN
    return np.where(is_own, photo.deep.colours, np.asarray(image).astype(np.uint16) * np.uint16(257))


def under_transparency(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """Give an image in which colours around a transparent part go on under it, for enlarging.

    What is stored there may be black, or anything; enlarging would bring it out at the borders. Pixels that can be
    seen (of which at least a sixteenth covers what is behind) are not changed, and neither is an image that is
    transparent, or visible, everywhere.

    Args:
        image: RGB.
        alpha: its transparency, mode "L".
    """
    weight = alpha.point([min(255, value * 255 // _OWN) for value in range(256)])
    least, most = weight.getextrema()
    return image if least == 255 or most == 0 else _filled(image, weight)


def _filled(image: Image.Image, weight: Image.Image) -> Image.Image:
    """Fill the pixels without weight from the image at half its size, that from one at a quarter, and so on."""
    if weight.getextrema() == (255, 255) or image.size == (1, 1):
        return image
    weighted = image.copy()
    weighted.putalpha(weight)
    half = weighted.convert("RGBa").reduce(2).convert("RGBA")
    # A quarter of a pixel's area is enough to know its colour.
    half_weight = half.getchannel("A").point([min(255, 4 * value) for value in range(256)])
    below = _filled(half.convert("RGB"), half_weight).resize(image.size, Image.Resampling.BILINEAR)
    return Image.composite(image, below, weight)
