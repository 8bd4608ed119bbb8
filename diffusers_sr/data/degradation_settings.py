"""Settings of the degradation: strengths and probabilities, checked; the defaults are SeeSR's."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

Range = tuple[float, float]

KERNELS = (
    "isotropic gaussian",
    "anisotropic gaussian",
    "isotropic generalised gaussian",
    "anisotropic generalised gaussian",
    "isotropic plateau",
    "anisotropic plateau",
)
RESIZES = ("up", "down", "keep")
NOISES = ("color", "gray", "correlated")


def _check_probabilities(name: str, probabilities: tuple[float, ...], options: tuple[str, ...]) -> None:
    if len(probabilities) != len(options) or min(probabilities) < 0 or abs(sum(probabilities) - 1) > 1e-6:
        raise ValueError(
            f"{name}={probabilities!r}: it has to hold {len(options)} probabilities that sum to 1, "
            f"for {', '.join(options)}."
        )


def _check_kernel_sizes(name: str, sizes: tuple[int, ...]) -> None:
    if not sizes or any(size < 3 or size % 2 == 0 for size in sizes):
        raise ValueError(f"{name}={sizes!r}: give one kernel size or more, each of them odd and at least 3.")


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
        ValueError: if a value is not allowed; the error names it.
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
    """Shape of generalised gaussians; as likely below 1 as above."""
    plateau_shape: Range = (1.0, 2.0)
    """Shape of plateau kernels; half of them have the lowest shape, as in the official code if this begins at 1."""
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
    """Settings of `degrade`; the defaults are those of SeeSR's script, `make_paired_data.py`.

    Kernels of the second order are 7 to 11 pixels wide, which is the script's limit. The class that draws them does
    not use this limit: in SeeSR's pairs they go up to 21 pixels, as in `REAL_ESRGAN`.

    Raises:
        ValueError: if a value is not allowed; the error names it.
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
    enlarges: bool = False
    """Whether the result is enlarged to the original's size, area, bilinear or bicubic with equal chances."""

    def __post_init__(self) -> None:
        _check_probability("final_sinc_probability", self.final_sinc_probability)
        _check_kernel_sizes("final_kernel_sizes", self.final_kernel_sizes)


@dataclass(frozen=True)
class ShuffledDegradation:
    """Settings of `bsrgan.degrade_shuffled`; the defaults are BSRGAN's, of `utils_blindsr.py` of its authors' code.

    Its camera's processing, which needs a model that was not released, is left out.

    Raises:
        ValueError: if a value is not allowed; the error names it.
    """

    halving_probability: float = 0.25
    """Chance that the image is halved before anything else, if it is to become four times smaller."""
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21, 23, 25)
    """Sides of the blur kernels in pixels, odd, equally likely."""
    anisotropic_probability: float = 0.5
    """Chance that a blur has another width along each of two axes: variances up to 4 + scale, that is 8.

    Otherwise it is isotropic, with a standard deviation of up to 2 + 0.2 scale, that is 2.8 pixels.
    """
    random_reduction_probability: float = 0.75
    """Chance that the image is resized by a random factor from 1 to 1 / (2 scale) on the way to the final size.

    Otherwise it is blurred with a standard deviation of 0.1 to 0.6 scale, and every scale-th pixel is taken.
    """
    noise_probabilities: tuple[float, ...] = (0.4, 0.4, 0.2)
    """Chance that the noise differs between the channels, is the same in all of them, or is correlated."""
    noise_level: tuple[int, int] = (2, 25)
    """Standard deviation of the noise, in units of 1/255; that of correlated noise depends on the highest."""
    jpeg_probability: float = 0.9
    """Chance of a JPEG compression before the last one."""
    jpeg_quality: tuple[int, int] = (30, 95)
    """Quality of each JPEG compression."""

    def __post_init__(self) -> None:
        _check_kernel_sizes("kernel_sizes", self.kernel_sizes)
        _check_probabilities("noise_probabilities", self.noise_probabilities, NOISES)
        for field in fields(self):
            if field.name.endswith("_probability"):
                _check_probability(field.name, getattr(self, field.name))
        _check_range("noise_level", self.noise_level, 0, 255, "units of 1/255")
        _check_range("jpeg_quality", self.jpeg_quality, 1, 100, "a JPEG quality")


REAL_ESRGAN = DegradationConfig(
    second=replace(DegradationConfig().second, kernel_sizes=DegradationOrder().kernel_sizes)
)
"""The settings of Real-ESRGAN (arXiv:2107.10833; `train_realesrnet_x4plus.yml` of its code).

SeeSR's and XPSR's training pairs were made with them, too: see `DegradationConfig`.
"""

OSEDIFF = replace(REAL_ESRGAN, enlarges=True)
"""The settings of OSEDiff (arXiv:2406.08177; `params_realesrgan.yml` of its code), which are Real-ESRGAN's.

Its code does not sharpen the original, and enlarges the degraded image before it rounds to 8 bits.
"""

PISA = replace(
    OSEDIFF,
    first=DegradationOrder(
        resize_factor=(0.3, 1.5),
        gaussian_noise_sigma=(1.0, 15.0),
        poisson_noise_scale=(0.05, 2.0),
        jpeg_quality=(60.0, 95.0),
    ),
    second=replace(
        OSEDIFF.second,
        blur_probability=0.5,
        resize_factor=(0.6, 1.2),
        gaussian_noise_sigma=(1.0, 12.0),
        poisson_noise_scale=(0.05, 1.0),
        jpeg_quality=(60.0, 100.0),
    ),
)
"""The settings of PiSA-SR (arXiv:2412.03017; `params.yml` of its code): as OSEDiff's, but milder."""

COSER = replace(
    PISA,
    first=replace(PISA.first, sigma=(0.2, 1.5), generalised_shape=(0.5, 2.0), plateau_shape=(1.0, 1.5)),
    second=replace(PISA.second, sigma=(0.2, 1.0), generalised_shape=(0.5, 2.0), plateau_shape=(1.0, 1.5)),
    enlarges=False,
)
"""The settings of CoSeR's reproduction (TianheWu/CoSeR, `aia_512_imagenet_all_caption_clip_atten_ref.yaml`).

They are StableSR's: as PiSA-SR's, with narrower blurs, and not enlarged. The kernels of both orders have 7 to 21
pixels: the file's limit of 11 for the second is not used by the code. It also leaves one crop in a hundred undegraded,
which is left out here.
"""
