"""Photographs made fit for square crops: large ones as they are, or all of them resized, as the papers' codes do."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ..image.decoding import ImageFileError, to_array

RESIZE_MODES = ("crop", "resize", "resize_crop")
REMEDY = "--resize_mode resize_crop or resize takes photos of any size, and a smaller --resolution more of them"


class TooSmallError(ImageFileError):
    """A photo is smaller than the crop that is to be cut out of it."""


def fit(image: Tensor, side: int, mode: str) -> Tensor:
    """Make a photo fit for a crop of `side` pixels.

    Args:
        image: uint8 [3, height, width].
        side: side of the crop.
        mode: `crop` leaves the photo as it is. `resize` stretches it to the square, without keeping its proportions
            (Lanczos), as SeeSR's official code does with COCO for DAPE. `resize_crop` brings its shorter side to
            `side` and cuts the square from its centre, as CoSeR's reproduction does with ImageNet: halved by averaging
            as often as it stays large enough, and then bicubic.

    Returns:
        uint8 [3, height, width]; [3, side, side] except with `crop`.

    Raises:
        TooSmallError: with `crop`, if the photo is smaller than the crop.
    """
    height, width = image.shape[-2:]
    if mode == "crop":
        if min(height, width) < side:
            raise TooSmallError(f"is {width}x{height} pixels, smaller than the crop of {side}x{side}")
        return image
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    if mode == "resize":
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    else:
        picture = _centre(_with_shorter_side(picture, side), side)
    return torch.from_numpy(to_array(picture)).permute(2, 0, 1)


def _with_shorter_side(picture: Image.Image, side: int) -> Image.Image:
    while min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)


def _centre(picture: Image.Image, side: int) -> Image.Image:
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))
