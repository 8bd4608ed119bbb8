"""PSNR and SSIM as published tables have them, which papers compute with pyiqa: the same to 1e-5, without it.

The functions of `measures` are the formulas; these have what that library adds to them. Both take a reference and a
result of equal shape, float [batch, 3, height, width] RGB in [0, 1], and return one value for each image, [batch].
They raise ValueError if the two differ in shape or are too small.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from .measures import check_images, crop, local_similarities, luma

ColorSpace: TypeAlias = Literal["ycbcr", "yiq", "rgb"]
"""The Y of video range (16 to 235 of 255), luma of full range, or all three channels."""

_LEAST_ERROR = 1e-8


def psnr(reference: Tensor, result: Tensor, space: ColorSpace = "ycbcr", crop_border: int = 0) -> Tensor:
    """Compute the peak signal-to-noise ratio in dB against the peak of 8 bits.

    1e-8 is added to the mean squared error (of values in [0, 1]), so that equal images have 80 dB. It takes 0.0004 dB
    from 40 dB.

    Args:
        reference: the original.
        result: the same shape.
        space: what is compared; of one pair "ycbcr" gives 1.32 dB more than "yiq".
        crop_border: pixels left out on each side.
    """
    check_images(reference, result, 1 + 2 * crop_border)
    first, second = (crop(_channels(image, space), crop_border) for image in (reference, result))
    return -10 * torch.log10((first - second).square().mean((1, 2, 3)) + _LEAST_ERROR)


def ssim(reference: Tensor, result: Tensor, space: ColorSpace = "ycbcr", crop_border: int = 0) -> Tensor:
    """Compute the structural similarity as Wang et al.'s MATLAB code does, at most 1.

    Values are rounded to whole levels of 255, and where structures are opposite the similarity is 0, not negative. The
    window is that of `measures.ssim_y`, from which it differs by about 0.001 on photographs. The arguments are those
    of `psnr`; of three channels it is the mean.
    """
    check_images(reference, result, 11 + 2 * crop_border)
    first, second = (
        (255 * crop(_channels(image, space), crop_border)).round().flatten(0, 1)[:, None]
        for image in (reference, result)
    )
    means, structures = local_similarities(first, second)
    return (means * structures.clamp(min=0)).mean((1, 2, 3)).view(len(reference), -1).mean(1)


def _channels(image: Tensor, space: ColorSpace) -> Tensor:
    """Convert to what is compared, [batch, channels, height, width] in [0, 1], float64."""
    image = image.double()
    if space == "rgb":
        return image
    grey = luma(image)[:, None]
    return (16 + 219 * grey) / 255 if space == "ycbcr" else grey
