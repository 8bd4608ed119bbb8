"""Pictures of 8 bits a channel from tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .partial import whole_file


def to_picture(image: Tensor) -> Image.Image:
    """Convert `[3, height, width]` in [0, 1] to a picture of 8 bits a channel."""
    levels = (image.permute(1, 2, 0).float() * 255).round().to(torch.uint8)
    return Image.fromarray(levels.cpu().numpy())


def write_image(path: Path, image: Tensor) -> None:
    """Write `image` [3, height, width] in [0, 1] as a PNG file, completely or not at all."""
    with whole_file(path) as temporary:
        to_picture(image).save(temporary, "PNG")
