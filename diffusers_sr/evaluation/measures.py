"""Full-reference measures of a restored image, as plain functions.

All take a reference and a result of equal shape, float [batch, 3, height, width] RGB in [0, 1], and return one value
for each image, [batch]. They raise ValueError if the two differ in shape or are too small to be measured.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def luma(image: Tensor) -> Tensor:
    """Compute BT.601 luma of [batch, 3, height, width], full range: [batch, height, width] in [0, 1].

    The Y of video-range YCbCr (16 to 235 of 255) is `(16 + 219 * luma) / 255`.
    """
    return torch.einsum("c,bchw->bhw", torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).to(image), image)


def check_images(reference: Tensor, result: Tensor, minimum: int) -> None:
    """Raise ValueError if two images cannot be compared, or have a side below `minimum` pixels."""
    if reference.shape != result.shape:
        raise ValueError(
            f"The reference is {list(reference.shape)} and the result {list(result.shape)}: only images of equal "
            "shape [batch, 3, height, width] can be compared."
        )
    if reference.ndim != 4 or reference.shape[1] != 3:
        raise ValueError(f"The images are {list(reference.shape)}: they have to be [batch, 3, height, width].")
    if min(reference.shape[-2:]) < minimum:
        height, width = reference.shape[-2:]
        raise ValueError(f"{width}x{height} pixels are too few to compare: each side needs at least {minimum}.")


def crop(image: Tensor, border: int) -> Tensor:
    """Leave out `border` pixels on each side."""
    height, width = image.shape[-2:]
    return image[..., border : height - border, border : width - border]


def psnr_y(reference: Tensor, result: Tensor, crop_border: int = 0) -> Tensor:
    """Compute the peak signal-to-noise ratio of the Y of video-range YCbCr, in dB against a peak of 255.

    It is infinite if the two are equal.

    This is the convention of super-resolution papers. Y only spans 16 to 235, so the figure is 20 log10(255 / 219) =
    1.32 dB higher than the same measure on full-range luma (which some libraries call PSNR-Y): compare like with like.

    Args:
        reference: [batch, 3, height, width] in [0, 1].
        result: the same shape.
        crop_border: pixels left out on each side; OSEDiff's published figures use 0, those of SeeSR and of older
            papers the scale.
    """
    check_images(reference, result, 1 + 2 * crop_border)
    difference = crop(luma(reference) - luma(result), crop_border) * (219 / 255)
    return -10 * torch.log10(difference.square().mean((1, 2)))


def ssim_y(reference: Tensor, result: Tensor, crop_border: int = 0) -> Tensor:
    """Compute the structural similarity (Wang et al. 2004) of the Y of video-range YCbCr, at most 1.

    The window is a gaussian of 11 pixels and deviation 1.5, only where it lies inside the image; K1 = 0.01, K2 = 0.03,
    peak 255. The arguments are those of `psnr_y`.
    """
    check_images(reference, result, 11 + 2 * crop_border)
    first, second = (crop(16 + 219 * luma(image), crop_border)[:, None] for image in (reference, result))
    means, structures = local_similarities(first, second)
    return (means * structures).mean((1, 2, 3))


def local_similarities(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the two factors of the structural similarity at each place: of local means, and of all else.

    Args:
        first: [batch, 1, height, width] in 0 to 255.
        second: the same shape.

    Returns:
        Twice [batch, 1, height - 10, width - 10], at most 1. The second is negative where one is like a negative of
        the other.
    """
    window = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2)).to(first)
    window = window / window.sum()

    def mean(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, window.view(1, 1, 11, 1)), window.view(1, 1, 1, 11))

    mean_first, mean_second = mean(first), mean(second)
    variance_first = mean(first**2) - mean_first**2
    variance_second = mean(second**2) - mean_second**2
    covariance = mean(first * second) - mean_first * mean_second
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    means = (2 * mean_first * mean_second + c1) / (mean_first**2 + mean_second**2 + c1)
    return means, (2 * covariance + c2) / (variance_first + variance_second + c2)


def gmsd(reference: Tensor, result: Tensor) -> Tensor:
    """Compute the gradient magnitude similarity deviation (Xue et al. 2014).

    It is 0 if the two are equal; about 0.1 is a visible difference. Full-range luma in 0..255 is averaged over 2x2
    pixels and halved (an odd last row or column is left out); Prewitt gradients have a border of zeros as in the
    published code; the similarity's constant is 170; the standard deviation is over all pixels.
    """
    check_images(reference, result, 2)
    prewitt = torch.tensor([[1.0, 0.0, -1.0]] * 3).to(reference) / 3
    weight = torch.stack([prewitt, prewitt.T])[:, None]

    def gradient(image: Tensor) -> Tensor:
        halved = F.avg_pool2d(255 * luma(image)[:, None], 2)
        return F.conv2d(halved, weight, padding=1).square().sum(1).sqrt()

    first, second = gradient(reference), gradient(result)
    similarity = (2 * first * second + 170) / (first**2 + second**2 + 170)
    return similarity.flatten(1).std(1, correction=0)


def radial_log_power_spectrum(image: Tensor) -> Tensor:
    """Average the natural logarithm of luma's power over rings of equal frequency: [batch, min(height, width) // 2].

    It is that of full-range luma in [0, 1], less its mean, times a Hann window, so that the image's borders do not
    pass for detail. Power is scaled so that white noise of variance v has power v, and 1 / (12 * 255^2), the noise of
    rounding to 8 bits, is added to it: what lies far below cannot be seen, and would dominate a logarithm. Entry r - 1
    is the mean over all frequencies whose radius is nearest to r / min(height, width) cycles per pixel; the last is
    Nyquist.
    """
    _, _, height, width = image.shape
    side = min(height, width)
    window = torch.outer(*(torch.hann_window(length).to(image) for length in (height, width)))
    plane = luma(image)
    plane = (plane - plane.mean((1, 2), keepdim=True)) * window
    power = torch.fft.fft2(plane).abs().square() / window.square().sum()
    log_power = torch.log(power + 1 / (12 * 255**2)).flatten(1)

    vertical, horizontal = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)
    ring = (torch.hypot(vertical, horizontal) * side).round().long().flatten().to(image.device)
    rings = int(ring.max()) + 1
    total = log_power.new_zeros(log_power.shape[0], rings).index_add_(1, ring, log_power)
    return (total / torch.bincount(ring, minlength=rings))[:, 1 : side // 2 + 1]


def log_power_spectrum_distance(reference: Tensor, result: Tensor) -> Tensor:
    """Compute the mean absolute difference of the two `radial_log_power_spectrum`, in natural-log units; 0 if equal.

    It tells whether the result has as much detail of each size as the reference, wherever that detail lies: a blurred
    image is far away, and so is one with noise added. 0.69 is a power wrong by a factor of 2 at every frequency.
    """
    check_images(reference, result, 4)
    return (radial_log_power_spectrum(reference) - radial_log_power_spectrum(result)).abs().mean(1)


def mean_color_difference(reference: Tensor, result: Tensor) -> Tensor:
    """Find the largest difference between the means of a channel, in units of 1/255."""
    check_images(reference, result, 1)
    return 255 * (reference.mean((2, 3)) - result.mean((2, 3))).abs().amax(1)


def evaluate(reference: Tensor, result: Tensor) -> dict[str, float]:
    """Compute all measures of this module, by their functions' names, each the mean over the batch."""
    measures = (psnr_y, ssim_y, gmsd, log_power_spectrum_distance, mean_color_difference)
    return {measure.__name__: measure(reference, result).mean().item() for measure in measures}
