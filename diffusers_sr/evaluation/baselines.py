"""Enlargements that need no model, to compare models with. Images are `[B, 3, h, w]` in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ..image import pictures
from ..image.pixels import resize


def to_picture(image: Tensor) -> Image.Image:
    """Convert [1, 3, height, width] in [0, 1] to a picture of 8 bits a channel."""
    return pictures.to_picture(image[0])


def to_image(picture: Image.Image) -> Tensor:
    """Convert an RGB picture to [1, 3, height, width] in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def lanczos_and_unsharp_mask(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge one image by Lanczos' filter and sharpen it by Pillow's unsharp mask, as a photo editor does by default.

    The mask has a radius of 2 pixels, 150 % and a threshold of 3 levels.
    """
    enlarged = to_picture(image).resize(size[::-1], Image.Resampling.LANCZOS)
    return to_image(enlarged.filter(ImageFilter.UnsharpMask(radius=2, percent=150, threshold=3)))


BASELINES: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "bicubic": resize,
    "Lanczos + unsharp mask": lanczos_and_unsharp_mask,
}
"""The functions that enlarge an image to (height, width), by name."""
