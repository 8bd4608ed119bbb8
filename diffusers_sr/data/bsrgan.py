"""The degradation of BSRGAN (Zhang et al. 2021, arXiv 2103.14006), in torch: its steps come in a random order.

Twice a blur, a reduction, what is left of the reduction to the final size, gaussian noise and JPEG, shuffled, and JPEG
once more at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor
from torch.nn import functional

from .degradation_settings import ShuffledDegradation
from .draws import chance, choice, uniform, weighted_choice, whole_number
from .jpeg import jpeg
from .kernels import blur, gaussian_kernel

STEPS = ("blur", "blur", "reduce", "finish", "noise", "jpeg")
_REDUCTION_KERNEL = 25
_NARROWEST = 1e-2  # pixels; the published ranges begin at 0, where a gaussian is no kernel


def degrade_shuffled(
    image: Tensor,
    size: tuple[int, int],
    settings: ShuffledDegradation,
    generator: Generator,
    noise_generator: Generator,
    resize: Callable[[Tensor, tuple[int, int], Generator], Tensor],
) -> Tensor:
    """Degrade [3, height, width] in [0, 1] to `size`.

    Args:
        image: the image.
        size: height and width of the result, whole fractions of the image's.
        settings: strengths and probabilities.
        generator: source of everything random except for the noise's values, on the CPU.
        noise_generator: source of the noise's values, on the image's device.
        resize: resizes by an interpolation that it draws.
    """
    scale = image.shape[-2] // size[0]
    if scale == 4 and chance(generator, settings.halving_probability):
        scale = 2
        half = (image.shape[-2] // 2, image.shape[-1] // 2)
        if chance(generator, 0.5):
            image = resize(image, half, generator)
        else:
            image = functional.interpolate(image[None], size=half, mode="bicubic", antialias=True)[0]
        image = image.clamp(0, 1)
    for step in draw_steps(generator):
        if step == "blur":
            image = blur(image, draw_kernel(settings, scale, generator))
        elif step == "reduce":
            image = _reduce(image, scale, settings, generator, resize).clamp(0, 1)
        elif step == "finish":
            image = resize(image, size, generator).clamp(0, 1)
        elif step == "noise":
            image = add_noise(image, settings, generator, noise_generator)
        elif chance(generator, settings.jpeg_probability):
            image = jpeg(image, whole_number(generator, *settings.jpeg_quality))
    return jpeg(image, whole_number(generator, *settings.jpeg_quality))


def draw_steps(generator: Generator) -> list[str]:
    """Draw the order of the steps; the reduction comes before what is left of it."""
    steps = [STEPS[number] for number in torch.randperm(len(STEPS), generator=generator)]
    first, second = sorted((steps.index("reduce"), steps.index("finish")))
    steps[first], steps[second] = "reduce", "finish"
    return steps


def draw_kernel(settings: ShuffledDegradation, scale: int, generator: Generator) -> Tensor:
    """Draw a gaussian blur for a reduction by `scale`: isotropic, or with a variance for each of two turned axes."""
    if chance(generator, settings.anisotropic_probability):
        across, along = (math.sqrt(uniform(generator, _NARROWEST**2, 4 + scale)) for _ in range(2))
        angle = uniform(generator, 0, math.pi)
        return gaussian_kernel(choice(generator, settings.kernel_sizes), (across, along), angle)
    sigma = uniform(generator, _NARROWEST, 2 + 0.2 * scale)
    return gaussian_kernel(choice(generator, settings.kernel_sizes), (sigma, sigma))


def _reduce(
    image: Tensor,
    scale: int,
    settings: ShuffledDegradation,
    generator: Generator,
    resize: Callable[[Tensor, tuple[int, int], Generator], Tensor],
) -> Tensor:
    """Reduce by a random factor, or blur and take every `scale`-th pixel."""
    height, width = image.shape[-2:]
    if chance(generator, settings.random_reduction_probability):
        factor = uniform(generator, 1, 2 * scale)
        return resize(image, (max(1, int(height / factor)), max(1, int(width / factor))), generator)
    return take_every(image, scale, uniform(generator, 0.1, 0.6 * scale))


def take_every(image: Tensor, scale: int, sigma: float) -> Tensor:
    """Blur, and take every `scale`-th pixel of each row and column.

    The blur is about the centre of the `scale` by `scale` pixels that one is taken for.
    """
    offsets = torch.arange(_REDUCTION_KERNEL) - _REDUCTION_KERNEL // 2 - (scale - 1) / 2
    line = torch.exp(-0.5 * (offsets / sigma) ** 2)
    line = line / line.sum()
    return blur(image, torch.outer(line, line))[..., ::scale, ::scale]


def add_noise(
    image: Tensor, settings: ShuffledDegradation, generator: Generator, noise_generator: Generator
) -> Tensor:
    """Add gaussian noise: each channel its own, all channels the same, or correlated between them."""
    kind = weighted_choice(generator, ("color", "gray", "correlated"), settings.noise_probabilities)
    deviation = whole_number(generator, *settings.noise_level) / 255
    shape = (1 if kind == "gray" else 3, *image.shape[-2:])
    noise = randn_tensor(shape, generator=noise_generator, device=image.device, dtype=image.dtype)
    if kind == "correlated":
        mixing = draw_mixing(settings.noise_level[1] / 255, generator).to(noise)
        noise = torch.einsum("nhw,nc->chw", noise, mixing)
    else:
        noise = noise * deviation
    return (image + noise).clamp(0, 1)


def draw_mixing(level: float, generator: Generator) -> Tensor:
    """Draw how three channels of noise are mixed into correlated ones: [3, 3], the square root of their covariance.

    The covariance is `level`^2 times that of random variances along random axes, whose values are made positive.
    """
    variances = torch.diag(torch.rand(3, generator=generator, dtype=torch.float64))
    axes = torch.linalg.svd(torch.rand(3, 3, generator=generator, dtype=torch.float64))[0]
    covariance = (level**2 * axes.T @ variances @ axes).abs()
    _, variances, axes = torch.linalg.svd(covariance)
    return variances.sqrt()[:, None] * axes
