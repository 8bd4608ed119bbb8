"""The second-order Real-ESRGAN degradation (Wang et al. 2021, arXiv 2107.10833) with SeeSR's settings, in torch.

blur -> resize -> noise -> JPEG, then a milder blur -> resize -> noise, and last, in either order, JPEG and
{resize to the final size -> sinc filter}.

A single order, for photos with ordinary damage: blur -> antialiased reduction to the final size -> noise -> JPEG.

And BSRGAN's degradation (`bsrgan`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor

from .bsrgan import degrade_shuffled
from .degradation_mixture import Degradation, DegradationMixture
from .degradation_settings import (
    KERNELS,
    RESIZES,
    DegradationConfig,
    DegradationOrder,
    Range,
    ShuffledDegradation,
)
from .draws import chance as _chance
from .draws import choice as _choice
from .draws import uniform as _uniform
from .draws import weighted_choice as _weighted_choice
from .jpeg import jpeg
from .kernels import blur, gaussian_kernel, plateau_kernel, sinc_kernel
from .memory import keep_freed_memory

INTERPOLATIONS = ("area", "bilinear", "bicubic")
_PHOTO_REDUCTIONS, _REDUCTION_PROBABILITIES = ("bicubic", "bilinear", "area"), (0.6, 0.2, 0.2)


def _shape(generator: Generator, shapes: Range) -> float:
    """Draw a shape below or above 1 with equal chance; a range with nothing there gives its end nearest to 1."""
    low, high = shapes
    if _chance(generator, 0.5):
        return _uniform(generator, low, max(low, min(1.0, high)))
    return _uniform(generator, min(high, max(1.0, low)), high)


def draw_kernel(order: DegradationOrder, generator: Generator) -> Tensor:
    """Draw a random blur kernel of one order: float32 [size, size] on the CPU, sum 1."""
    size = _choice(generator, order.kernel_sizes)
    if _chance(generator, order.sinc_probability):
        return sinc_kernel(size, _uniform(generator, math.pi / 3 if size < 13 else math.pi / 5, math.pi))

    kind = _weighted_choice(generator, KERNELS, order.kernel_probabilities)
    sigma = (_uniform(generator, *order.sigma),) * 2
    angle = 0.0
    if kind.startswith("anisotropic"):
        sigma = (sigma[0], _uniform(generator, *order.sigma))
        angle = _uniform(generator, -math.pi, math.pi)
    if kind.endswith("plateau"):
        return plateau_kernel(size, sigma, angle, _shape(generator, order.plateau_shape))
    if "generalised" in kind:
        return gaussian_kernel(size, sigma, angle, _shape(generator, order.generalised_shape))
    return gaussian_kernel(size, sigma, angle)


def draw_resize_factor(order: DegradationOrder, generator: Generator) -> float:
    """Draw a random resize factor of one order."""
    resize = _weighted_choice(generator, RESIZES, order.resize_probabilities)
    if resize == "keep":
        return 1.0
    smallest, largest = order.resize_factor
    return _uniform(generator, 1.0, largest) if resize == "up" else _uniform(generator, smallest, 1.0)


def resize(image: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
    """Resize [3, height, width] to `size` by an interpolation drawn from `INTERPOLATIONS`, without antialiasing.

    Bicubic interpolation overshoots [0, 1].
    """
    mode = _choice(generator, INTERPOLATIONS)
    if image.shape[1:] == size:
        return image  # each interpolation would return the same, but slower
    return F.interpolate(image[None], size=size, mode=mode)[0]


def poisson_noise(image: Tensor, gray: bool, generator: Generator) -> Tensor:
    """Draw the Poisson noise of an 8-bit image, without the image.

    As in the official code, the photon count of white is the number of distinct 8-bit values in the image, rounded up
    to a power of two.

    Args:
        image: [3, height, width] in [0, 1].
        gray: whether the noise is that of the luminance, equal in all channels.
        generator: source of the noise, which is drawn on its device.

    Returns:
        [3, height, width], with mean 0, about ±0.1.
    """
    if gray:
        image = (torch.tensor([0.2989, 0.587, 0.114]).to(image)[:, None, None] * image).sum(0, keepdim=True)
    values = (image * 255).round().clamp(0, 255)
    distinct = int(torch.count_nonzero(torch.bincount(values.flatten().int(), minlength=256)))
    photons = 2.0 ** math.ceil(math.log2(distinct))
    expected = values.to(generator.device) * (photons / 255)
    noise = (torch.poisson(expected, generator=generator) - expected) / photons
    return noise.to(image.device).expand(3, -1, -1)


def add_noise(
    image: Tensor, order: DegradationOrder, generator: Generator, noise_generator: Generator | None = None
) -> Tensor:
    """Add gaussian or Poisson noise to [3, height, width] and clamp to [0, 1].

    Kind and strength are drawn from `generator`, the noise itself from `noise_generator`, or by default from the same.
    """
    noise_generator = noise_generator or generator
    gaussian = _chance(generator, order.gaussian_noise_probability)
    gray = _chance(generator, order.gray_noise_probability)
    if gaussian:
        sigma = _uniform(generator, *order.gaussian_noise_sigma) / 255
        shape = (1 if gray else 3, *image.shape[1:])
        noise = sigma * randn_tensor(shape, generator=noise_generator, device=image.device, dtype=image.dtype)
    else:
        scale = _uniform(generator, *order.poisson_noise_scale)
        noise = scale * poisson_noise(image, gray, noise_generator)
    return (image + noise).clamp(0, 1)


def _degrade_once(
    image: Tensor,
    size: tuple[int, int],
    order: DegradationOrder,
    generator: Generator,
    noise_generator: Generator | None,
) -> Tensor:
    """Blur, resize to a random multiple of `size`, add noise."""
    if _chance(generator, order.blur_probability):
        image = blur(image, draw_kernel(order, generator))
    factor = draw_resize_factor(order, generator)
    # At least one pixel must remain of an image that is too small for the factor.
    image = resize(image, (max(1, int(size[0] * factor)), max(1, int(size[1] * factor))), generator)
    return add_noise(image, order, generator, noise_generator)


def _degrade_in_one_order(
    image: Tensor,
    size: tuple[int, int],
    order: DegradationOrder,
    generator: Generator,
    noise_generator: Generator | None,
) -> Tensor:
    """Blur, reduce to `size` as photo programs do, add noise, compress."""
    if _chance(generator, order.blur_probability):
        image = blur(image, draw_kernel(order, generator))
    mode = _weighted_choice(generator, _PHOTO_REDUCTIONS, _REDUCTION_PROBABILITIES)
    image = F.interpolate(image[None], size=size, mode=mode, antialias=mode != "area")[0]
    image = add_noise(image, order, generator, noise_generator)
    return jpeg(image, _uniform(generator, *order.jpeg_quality))


@torch.no_grad()
def degrade(
    image: Tensor,
    generator: Generator,
    config: Degradation = DegradationConfig(),
    scale: int = 4,
    noise_generator: Generator | None = None,
) -> Tensor:
    """Make a low-resolution, degraded image. Equal generators give equal results on equal machines.

    The official code sharpens the image first: see `sharpening.usm_sharpen`.

    Args:
        image: float32 [3, height, width] in [0, 1], on any device.
        generator: source of everything random, on the CPU whatever the image's device.
        config: strengths and probabilities; of a mixture, one part is drawn.
        scale: ratio of the image's sides to the result's.
        noise_generator: source of the noise's values alone, on the image's device: drawing them on the CPU takes
            longer than everything else does on a GPU. By default they come from `generator`.

    Returns:
        [3, height / scale, width / scale] in [0, 1], multiples of 1/255; [3, height, width] if `config.enlarges`.

    Raises:
        ValueError: if the image does not have three channels, or its sides are not multiples of `scale`.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image has the shape {list(image.shape)}: degrade takes one image [3, height, width].")
    height, width = image.shape[1:]
    if height % scale or width % scale:
        raise ValueError(f"The image is {width}x{height} pixels: crop it to multiples of scale={scale}.")
    final_size = (height // scale, width // scale)
    keep_freed_memory()
    if isinstance(config, DegradationMixture):
        config = _weighted_choice(generator, config.parts, config.probabilities)
    if isinstance(config, DegradationOrder):
        image = _degrade_in_one_order(image, final_size, config, generator, noise_generator)
        return (image * 255).round().clamp(0, 255) / 255
    if isinstance(config, ShuffledDegradation):
        image = degrade_shuffled(image, final_size, config, generator, noise_generator or generator, resize)
        return (image * 255).round().clamp(0, 255) / 255

    image = _degrade_once(image, (height, width), config.first, generator, noise_generator)
    image = jpeg(image, _uniform(generator, *config.first.jpeg_quality))
    image = _degrade_once(image, final_size, config.second, generator, noise_generator)

    jpeg_last = _chance(generator, 0.5)
    quality = _uniform(generator, *config.second.jpeg_quality)
    if not jpeg_last:
        image = jpeg(image, quality)
    image = resize(image, final_size, generator)
    if _chance(generator, config.final_sinc_probability):
        size = _choice(generator, config.final_kernel_sizes)
        image = blur(image, sinc_kernel(size, _uniform(generator, math.pi / 3, math.pi)))
    if jpeg_last:
        image = jpeg(image, quality)
    if config.enlarges:
        image = resize(image, (height, width), generator)
    return (image * 255).round().clamp(0, 255) / 255


def degrade_batch(images: Tensor, seeds: Tensor, config: Degradation = DegradationConfig(), scale: int = 4) -> Tensor:
    """Degrade a batch on the device it is on, with the distribution of `degrade`, each sample by a seed of its own.

    A sample does not depend on what else is in the batch. It is not what `degrade` makes from the same seed:
    parameters are drawn on the CPU, but the noise on the device, whose random numbers are different. On a GPU, sums
    are also taken in another order, so that JPEG, which rounds, may differ by a quantisation step.

    Kernels, intermediate sizes and JPEG qualities are each sample's own, so no two samples take the same path: they
    are queued on the device one after another, not stacked into one tensor. (Implementations that stack them give all
    samples of a batch the same parameters, which is another distribution.)

    Args:
        images: float32 [batch, 3, height, width] in [0, 1].
        seeds: int64 [batch].
        config, scale: as in `degrade`.

    Returns:
        [batch, 3, height / scale, width / scale] in [0, 1], multiples of 1/255; as large as `images` if
        `config.enlarges`.

    Raises:
        ValueError: as `degrade` does.
    """
    degraded = []
    for image, seed in zip(images, seeds.tolist(), strict=True):
        generator = Generator().manual_seed(seed)
        noise_seed = int(torch.randint(1 << 62, (), generator=generator))
        noise_generator = Generator(images.device).manual_seed(noise_seed)
        degraded.append(degrade(image, generator, config, scale, noise_generator))
    return torch.stack(degraded)
