"""The Haar wavelet-based perceptual similarity index (Reisenhofer et al. 2018, arXiv 1607.06140)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .measures import check_images

# Of the paper: what makes small coefficients similar, and the slope of the logistic function.
_C, _ALPHA = 30.0, 4.2
_YIQ = [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]


def haarpsi(reference: Tensor, result: Tensor) -> Tensor:
    """Compute the HaarPSI of two images, from 0 to 1; 1 if they are equal.

    Args:
        reference: float [batch, 3, height, width] RGB in [0, 1].
        result: the same shape.

    Returns:
        One value for each image, [batch].

    Raises:
        ValueError: if the two differ in shape, or a side has less than 16 pixels, the largest wavelet's at half size.
    """
    check_images(reference, result, 16)
    first, second = _halved_yiq(reference), _halved_yiq(result)
    fine, weights = [], []
    for level in (1, 2, 3):
        magnitudes = _haar(first[:, :1], level), _haar(second[:, :1], level)
        if level < 3:
            fine.append(_similarity(*magnitudes))
        else:
            weights.append(torch.maximum(*magnitudes))
    color = _similarity(_local_mean(first[:, 1:]).abs(), _local_mean(second[:, 1:]).abs())
    # The maps of horizontal and of vertical edges, and one of colour.
    similarity = torch.cat([(fine[0] + fine[1]) / 2, color.mean(1, keepdim=True)], 1)
    weight = torch.cat([*weights, weights[0].mean(1, keepdim=True)], 1)
    mean = (torch.sigmoid(_ALPHA * similarity) * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    # Where no image has an edge, nothing has a weight, and nothing differs.
    mean = torch.where(weight.sum((1, 2, 3)) > 0, mean, torch.sigmoid(torch.tensor(_ALPHA)))
    return (torch.logit(mean) / _ALPHA).square()


def _halved_yiq(image: Tensor) -> Tensor:
    """Convert to YIQ of 0 to 255, and average 2x2 pixels; an odd side is continued by black."""
    yiq = 255 * torch.einsum("yc,bchw->byhw", torch.tensor(_YIQ).to(image), image)
    height, width = yiq.shape[-2:]
    return F.avg_pool2d(F.pad(yiq, (0, width % 2, 0, height % 2)), 2)


def _filtered(image: Tensor, kernel: Tensor) -> Tensor:
    """Filter each plane by square kernels of even side, with zeros beyond the borders; the size stays."""
    side = kernel.shape[-1]
    before, after = side // 2 - 1, side // 2
    return F.conv2d(F.pad(image, (before, after, before, after)), kernel)


def _haar(plane: Tensor, level: int) -> Tensor:
    """Compute the magnitudes of the Haar coefficients of horizontal and vertical edges, [batch, 2, height, width]."""
    side = 2**level
    kernel = torch.full((side, side), 1.0 / side).to(plane)
    kernel[: side // 2] *= -1
    return _filtered(plane, torch.stack([kernel, kernel.T])[:, None]).abs()


def _local_mean(planes: Tensor) -> Tensor:
    kernel = torch.full((1, 1, 2, 2), 0.25).to(planes)
    return _filtered(planes.flatten(0, 1)[:, None], kernel).view_as(planes)


def _similarity(first: Tensor, second: Tensor) -> Tensor:
    return (2 * first * second + _C) / (first**2 + second**2 + _C)
