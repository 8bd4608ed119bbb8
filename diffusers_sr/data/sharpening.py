"""Unsharp masking of the training target."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .kernels import blur, gaussian_kernel
from .memory import keep_freed_memory


@cache
def _usm_kernel(size: int) -> Tensor:
    # OpenCV's rule for the deviation that belongs to a kernel's size.
    return gaussian_kernel(size, (0.3 * ((size - 1) / 2 - 1) + 0.8,) * 2)


def usm_sharpen(image: Tensor, strength: float = 0.5, kernel_size: int = 51, threshold: float = 10.0) -> Tensor:
    """Sharpen the training target by unsharp masking, as in Real-ESRGAN (its appendix).

    Args:
        image: float32 [batch, 3, height, width] or [3, height, width] in [0, 1].
        strength: factor on the detail that is added.
        kernel_size: side of the gaussian in pixels, odd; 51 has a deviation of 8.
        threshold: detail up to this, in units of 1/255, is not sharpened.

    Returns:
        The sharpened image, of the same shape, in [0, 1].
    """
    keep_freed_memory()
    kernel = _usm_kernel(kernel_size)
    detail = image - blur(image, kernel)
    mask = blur((detail.abs() * 255 > threshold).to(image), kernel)
    sharp = (image + strength * detail).clamp(0, 1)
    return torch.lerp(image, sharp, mask).clamp(0, 1)
