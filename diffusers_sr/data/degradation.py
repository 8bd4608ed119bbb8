"""The two-order Real-ESRGAN degradation (Wang et al. 2021, arXiv 2107.10833) with SeeSR's settings, in torch.

blur -> resize -> noise -> JPEG, then a milder blur -> resize -> noise, and last, in either order, JPEG and
{resize to the final size -> sinc filter}.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor

from .jpeg import jpeg
from .kernels import blur, gaussian_kernel, plateau_kernel, sinc_kernel

Range = tuple[float, float]
T = TypeVar("T")

KERNELS = (
    "isotropic gaussian",
    "anisotropic gaussian",
    "isotropic generalised gaussian",
    "anisotropic generalised gaussian",
    "isotropic plateau",
    "anisotropic plateau",
)
RESIZES = ("up", "down", "keep")
INTERPOLATIONS = ("area", "bilinear", "bicubic")


def _check_probabilities(name: str, probabilities: tuple[float, ...], options: tuple[str, ...]) -> None:
    if len(probabilities) != len(options) or min(probabilities) < 0 or abs(sum(probabilities) - 1) > 1e-6:
        raise ValueError(
            f"{name}={probabilities!r}: it has to hold {len(options)} probabilities that sum to 1, "
            f"for {', '.join(options)}."
        )


def _check_kernel_sizes(name: str, sizes: tuple[int, ...]) -> None:
    if not sizes or any(size < 3 or size % 2 == 0 for size in sizes):
        raise ValueError(f"{name}={sizes!r}: kernel sizes have to be odd and at least 3, and one at least be given.")


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: a probability has to lie between 0 and 1.")


def _check_range(name: str, value: Range, low: float, high: float, unit: str) -> None:
    if not (isinstance(value, tuple) and len(value) == 2 and low <= value[0] <= value[1] <= high):
        raise ValueError(
            f"{name}={value!r}: it has to be (lowest, highest), ascending, between {low:g} and {high:g} ({unit})."
        )


@dataclass(frozen=True)
class DegradationOrder:
    """Settings of one of the two orders; the defaults are those of the first.

    Every range is (lowest, highest), drawn from uniformly.

    Raises:
        ValueError: if a value is not possible, naming it.
    """

    blur_probability: float = 1.0
    """Chance that the image is blurred at all."""
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    """Sides of the blur kernels in pixels, odd, equally likely."""
    sinc_probability: float = 0.1
    """Chance that the blur is a sinc filter; cutoff pi/3..pi for kernels below 13 pixels, pi/5..pi from there on."""
    kernel_probabilities: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Otherwise, the chance of each of `KERNELS`."""
    sigma: Range = (0.2, 3.0)
    """Standard deviation of the blur along each of its axes, in pixels."""
    generalised_shape: Range = (0.5, 4.0)
    """Shape of generalised gaussians; as likely from below 1 as from above."""
    plateau_shape: Range = (1.0, 2.0)
    """Shape of plateau kernels; half of them have the lowest shape, the official behaviour where this begins at 1."""
    resize_probabilities: tuple[float, ...] = (0.2, 0.7, 0.1)
    """Chance of enlarging, of shrinking and of keeping the size."""
    resize_factor: Range = (0.15, 1.5)
    """Smallest factor when shrinking and largest when enlarging."""
    gaussian_noise_probability: float = 0.5
    """Chance that the noise is gaussian; else it is Poisson noise."""
    gaussian_noise_sigma: Range = (1.0, 30.0)
    """Standard deviation of gaussian noise, in units of 1/255."""
    poisson_noise_scale: Range = (0.05, 3.0)
    """Factor on the Poisson noise of the 8-bit image."""
    gray_noise_probability: float = 0.4
    """Chance that noise is equal in all three channels."""
    jpeg_quality: Range = (30.0, 95.0)
    """Quality of the JPEG compression."""

    def __post_init__(self) -> None:
        _check_kernel_sizes("kernel_sizes", self.kernel_sizes)
        _check_probabilities("kernel_probabilities", self.kernel_probabilities, KERNELS)
        _check_probabilities("resize_probabilities", self.resize_probabilities, RESIZES)
        for field in fields(self):
            if field.name.endswith("_probability"):
                _check_probability(field.name, getattr(self, field.name))
        _check_range("sigma", self.sigma, 1e-2, math.inf, "pixels")
        _check_range("generalised_shape", self.generalised_shape, 1e-2, math.inf, "an exponent")
        _check_range("plateau_shape", self.plateau_shape, 1e-2, math.inf, "an exponent")
        _check_range("resize_factor", self.resize_factor, 1e-2, math.inf, "a factor")
        _check_range("gaussian_noise_sigma", self.gaussian_noise_sigma, 0, 255, "units of 1/255")
        _check_range("poisson_noise_scale", self.poisson_noise_scale, 0, math.inf, "a factor")
        _check_range("jpeg_quality", self.jpeg_quality, 1, 100, "a JPEG quality")
        if not self.resize_factor[0] <= 1 <= self.resize_factor[1]:
            raise ValueError(f"resize_factor={self.resize_factor!r}: it has to include 1.")


@dataclass(frozen=True)
class DegradationConfig:
    """Settings of `degrade`; the defaults are those SeeSR's training pairs were made with.

    Kernels of the second order are 7 to 11 pixels wide (SeeSR's limit), where Real-ESRGAN's go up to 21.

    Raises:
        ValueError: if a value is not possible, naming it.
    """

    first: DegradationOrder = DegradationOrder()
    """The first order."""
    second: DegradationOrder = DegradationOrder(
        blur_probability=0.8,
        kernel_sizes=(7, 9, 11),
        sigma=(0.2, 1.5),
        resize_probabilities=(0.3, 0.4, 0.3),
        resize_factor=(0.3, 1.2),
        gaussian_noise_sigma=(1.0, 25.0),
        poisson_noise_scale=(0.05, 2.5),
    )
    """The second order, whose resize factor is relative to the final size."""
    final_sinc_probability: float = 0.8
    """Chance of a sinc filter at the final size, cutoff pi/3..pi."""
    final_kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    """Sides of the final sinc filters in pixels, odd, equally likely."""

    def __post_init__(self) -> None:
        _check_probability("final_sinc_probability", self.final_sinc_probability)
        _check_kernel_sizes("final_kernel_sizes", self.final_kernel_sizes)


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _chance(generator: Generator, probability: float) -> bool:
    return torch.rand((), generator=generator).item() < probability


def _choice(generator: Generator, options: tuple[T, ...]) -> T:
    return options[int(torch.randint(len(options), (), generator=generator))]


def _weighted_choice(generator: Generator, options: tuple[T, ...], probabilities: tuple[float, ...]) -> T:
    return options[int(torch.multinomial(torch.tensor(probabilities, dtype=torch.float64), 1, generator=generator))]


def _shape(generator: Generator, shapes: Range) -> float:
    """Below or above 1 with equal chance; a range with no side below (above) 1 gives its end at 1 then."""
    low, high = shapes
    if _chance(generator, 0.5):
        return _uniform(generator, low, max(low, min(1.0, high)))
    return _uniform(generator, min(high, max(1.0, low)), high)


def draw_kernel(order: DegradationOrder, generator: Generator) -> Tensor:
    """A random blur kernel of one order: float32 [size, size] on the CPU, sum 1."""
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
    """A random resize factor of one order."""
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
        return image  # as each of them would, but for the time it takes
    return F.interpolate(image[None], size=size, mode=mode)[0]


def poisson_noise(image: Tensor, gray: bool, generator: Generator) -> Tensor:
    """Poisson noise of an 8-bit image, without the image.

    As in the official code the photon count of white is the number of distinct 8-bit values in the image, rounded up
    to a power of two.

    Args:
        image: [3, height, width] in [0, 1].
        gray: noise of the luminance, equal in all channels.
        generator: source of the noise, which is drawn on its device.

    Returns:
        [3, height, width], of mean 0, about ±0.1.
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

    Kind and strength are drawn from `generator`, the noise itself from `noise_generator`, or from the same.
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
    # At least one pixel must remain of images that are smaller than the smallest factor allows for.
    image = resize(image, (max(1, int(size[0] * factor)), max(1, int(size[1] * factor))), generator)
    return add_noise(image, order, generator, noise_generator)


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep the memory of images for the next one, where every page of it would cost a fault.

    glibc gives blocks above a threshold back to the system when they are freed, and raises the threshold to the
    largest block that was freed so far, up to 32 MiB. (Elsewhere this does nothing.)
    """
    torch.empty(30 << 20, dtype=torch.uint8)


@torch.no_grad()
def degrade(
    image: Tensor,
    generator: Generator,
    config: DegradationConfig = DegradationConfig(),
    scale: int = 4,
    noise_generator: Generator | None = None,
) -> Tensor:
    """Make a low-resolution, degraded image. Equal generators give equal results on equal machines.

    The official code sharpens the image first: see `usm_sharpen`.

    Args:
        image: float32 [3, height, width] in [0, 1], on any device.
        generator: source of everything random, on the CPU whatever the image's device.
        config: strengths and probabilities.
        scale: ratio of the image's sides to the result's.
        noise_generator: source of the noise's values alone, on the image's device: drawing them on the CPU takes
            longer than all the rest on a GPU. By default they come from `generator`.

    Returns:
        [3, height / scale, width / scale] in [0, 1], multiples of 1/255.

    Raises:
        ValueError: if the image has not three channels, or its sides are no multiples of `scale`.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image has the shape {list(image.shape)}: degrade takes one image [3, height, width].")
    height, width = image.shape[1:]
    if height % scale or width % scale:
        raise ValueError(f"The image is {width}x{height} pixels: crop it to multiples of scale={scale}.")
    final_size = (height // scale, width // scale)
    _keep_freed_memory()

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
    return (image * 255).round().clamp(0, 255) / 255


def degrade_batch(
    images: Tensor, seeds: Tensor, config: DegradationConfig = DegradationConfig(), scale: int = 4
) -> Tensor:
    """Degrade a batch on the device it is on: the distribution of `degrade`, each sample seeded by its own number.

    A sample does not depend on what else is in the batch. It is not what `degrade` makes of the same seed: parameters
    are drawn on the CPU, but the noise on the device, whose random numbers are others. And on a GPU sums are taken in
    another order, so that JPEG, which rounds, may differ by a quantisation step.

    Kernels, intermediate sizes and JPEG qualities are each sample's own, so no two samples take the same path: they
    are queued on the device one after another, not stacked into one tensor. (Codes that stack them give all samples
    of a batch the same parameters, which is another distribution.)

    Args:
        images: float32 [batch, 3, height, width] in [0, 1].
        seeds: int64 [batch].
        config, scale: as in `degrade`.

    Returns:
        [batch, 3, height / scale, width / scale] in [0, 1], multiples of 1/255.

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


@cache
def _usm_kernel(size: int) -> Tensor:
    # OpenCV's rule for the deviation that goes with a kernel's size.
    return gaussian_kernel(size, (0.3 * ((size - 1) / 2 - 1) + 0.8,) * 2)


def usm_sharpen(image: Tensor, strength: float = 0.5, kernel_size: int = 51, threshold: float = 10.0) -> Tensor:
    """Unsharp masking of the training target, as in Real-ESRGAN (its appendix).

    Args:
        image: float32 [batch, 3, height, width] or [3, height, width] in [0, 1].
        strength: factor on the detail that is added.
        kernel_size: side of the gaussian in pixels, odd; 51 has a deviation of 8.
        threshold: detail up to this, in units of 1/255, is left as it is.

    Returns:
        The image in its own shape, in [0, 1].
    """
    _keep_freed_memory()
    kernel = _usm_kernel(kernel_size)
    detail = image - blur(image, kernel)
    mask = blur((detail.abs() * 255 > threshold).to(image), kernel)
    sharp = (image + strength * detail).clamp(0, 1)
    return torch.lerp(image, sharp, mask).clamp(0, 1)
