"""Blur kernels of the Real-ESRGAN degradation (Wang et al. 2021, section 3.1 and appendix).

A kernel is float32 [size, size] on the CPU and sums to 1; `size` is odd, `sigma` is in pixels.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def _normalize(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()


def _coordinates(size: int) -> Tensor:
    return torch.arange(size, dtype=torch.float32) - (size - 1) / 2


def _squared_distance(size: int, sigma: tuple[float, float], angle: float) -> Tensor:
    """Compute each pixel's squared Mahalanobis distance to the centre.

    The deviations are `sigma`, along axes turned by `angle`.
    """
    y, x = torch.meshgrid(_coordinates(size), _coordinates(size), indexing="ij")
    along = math.cos(angle) * x + math.sin(angle) * y
    across = math.cos(angle) * y - math.sin(angle) * x
    return (along / sigma[0]) ** 2 + (across / sigma[1]) ** 2


def gaussian_kernel(size: int, sigma: tuple[float, float], angle: float = 0.0, shape: float = 1.0) -> Tensor:
    """Make a generalised gaussian `exp(-d^shape / 2)`, `d` being the squared Mahalanobis distance.

    With shape 1 it is the gaussian.

    Args:
        size: side of the kernel, odd.
        sigma: deviations along the two axes; equal ones make the kernel isotropic.
        angle: rotation of the first axis in radians.
        shape: exponent; below 1 the tails are heavier than a gaussian's, above 1 the top is flatter.
    """
    return _normalize(torch.exp(-0.5 * _squared_distance(size, sigma, angle) ** shape))


def plateau_kernel(size: int, sigma: tuple[float, float], angle: float = 0.0, shape: float = 1.0) -> Tensor:
    """Make a plateau-shaped kernel `1 / (1 + d^shape)`; arguments as in `gaussian_kernel`."""
    return _normalize(1 / (1 + _squared_distance(size, sigma, angle) ** shape))


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """Make a circular low-pass filter `cutoff J1(cutoff r) / (2 pi r)`, which rings and overshoots.

    `cutoff` is in (0, pi].
    """
    y, x = torch.meshgrid(_coordinates(size), _coordinates(size), indexing="ij")
    # At r = 0 the expression is 0 / 0. Its limit, cutoff^2 / 4 pi, is reached to float32 precision well before 1e-3.
    radius = torch.hypot(x, y).clamp(min=1e-3)
    return _normalize(cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius))


def reflect_pad(images: Tensor, pad: int) -> Tensor:
    """Mirror [..., height, width] at its outer pixels, by any `pad`: beyond the side's length it is mirrored again."""
    if pad < min(images.shape[-2:]):
        planes = images.reshape(-1, *images.shape[-2:])
        mirrored = F.pad(planes, (pad,) * 4, mode="reflect")
        return mirrored.view(*images.shape[:-2], *mirrored.shape[-2:])

    def indices(length: int) -> Tensor:
        period = max(2 * (length - 1), 1)
        index = torch.arange(-pad, length + pad, device=images.device) % period
        return torch.minimum(index, period - index)

    return images[..., indices(images.shape[-2])[:, None], indices(images.shape[-1])]


@cache
def _fast_length(length: int) -> int:
    """Find the smallest even length from `length` on without prime factors above 5, which is fast to transform."""
    length += length % 2
    while 30 ** length.bit_length() % length:
        length += 2
    return length


def _spectrum(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute the Fourier transform of [..., height, width], padded with zeros to `size`."""
    # The transforms can pad too, but then take three times as long. Rows of zeros need no transform.
    height, width = planes.shape[-2:]
    rows = torch.fft.rfft(F.pad(planes, (0, size[1] - width)))
    return torch.fft.fft(F.pad(rows, (0, 0, 0, size[0] - height)), dim=-2)


def blur(images: Tensor, kernel: Tensor) -> Tensor:
    """Filter each plane of float32 [..., height, width] with one kernel [size, size], mirrored at the borders.

    It uses Fourier transforms: exact to 1e-6 and, for kernels from 11 pixels on, several times faster than a
    convolution on a CPU.
    """
    height, width = images.shape[-2:]
    padded = reflect_pad(images, kernel.shape[-1] // 2)
    size = (_fast_length(padded.shape[-2]), _fast_length(padded.shape[-1]))
    filtered = _spectrum(padded, size).mul_(_spectrum(kernel.to(images), size).conj())
    rows = torch.fft.ifft(filtered, dim=-2)[..., :height, :]
    return torch.fft.irfft(rows, n=size[1])[..., :width]
