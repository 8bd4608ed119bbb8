"""XPSR's low-level prompt without a language model: the measurable degradation of an image, in words."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLUR = ("sharp", "slightly blurry", "blurry", "very blurry")
NOISE = ("no noise", "slight noise", "visible noise", "strong noise")
COMPRESSION = (
    "no compression artifacts",
    "slight compression artifacts",
    "visible compression artifacts",
    "strong compression artifacts",
)
RESOLUTION = ("high resolution", "medium resolution", "low resolution", "very low resolution")
VOCABULARY = (BLUR, NOISE, COMPRESSION, RESOLUTION)
"""Everything `describe_degradation` says: one phrase of each tuple, which runs from the mildest to the strongest."""

# Where the second, third and fourth phrases begin; see `describe_degradation`.
BLUR_THRESHOLDS = (-0.165, -0.115, -0.081)
NOISE_THRESHOLDS = (5.0, 9.0, 18.0)
COMPRESSION_THRESHOLDS = (1.2, 1.5, 2.1)
RESOLUTION_THRESHOLDS = (-720, -256, -96)

# Only the middle of a large image is measured, in bounded time; a multiple of a JPEG block's 8 pixels.
_MOST_PIXELS_A_SIDE = 1024


@torch.no_grad()
def describe_degradation(image: Tensor, shorter_side: int | None = None) -> str:
    """Say how blurred, noisy and compressed an image is, and how large.

    The text always has four phrases, in the order of `VOCABULARY`: from "sharp, no noise, no compression artifacts,
    high resolution" to "very blurry, strong noise, strong compression artifacts, very low resolution". A degradation
    that cannot be measured, such as the blur of an even surface, is not claimed.

    The thresholds were chosen on photographs reduced four times (bicubic), whole and in crops of 24×24 pixels, to
    which one degradation was added. Whole images then mostly get the first to the fourth phrase, in this order, for
    - blur by a gaussian of 0.5, 0.8, 1.2 and 2 pixels;
    - noise of a standard deviation of 2, 5, 10 and 20, in units of 1/255;
    - JPEG of quality 95, 75, 45 and 20;
    - a shorter side of at least 720, 256, 96 pixels, and less.
    Fine texture is mistaken for slight noise, and JPEG removes noise.

    Args:
        image: [3, H, W] in [0, 1], of any size from 1×1; of one larger than 1024 pixels only the middle is measured.
        shorter_side: shorter side in pixels of the whole image, if `image` is a crop of it.

    Raises:
        ValueError: if the image does not have three axes and three channels, or has no pixels.
    """
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"`image` has shape {list(image.shape)}, but has to be [3, H, W]: one RGB image.")
    if shorter_side is None:
        shorter_side = min(image.shape[1:])
    image = _middle(image).float() * 255
    noise = noise_level(image)
    return ", ".join(
        (
            _phrase(BLUR, -sharpness(image, noise), BLUR_THRESHOLDS),
            _phrase(NOISE, noise, NOISE_THRESHOLDS),
            _phrase(COMPRESSION, blockiness(image), COMPRESSION_THRESHOLDS),
            _phrase(RESOLUTION, -shorter_side, RESOLUTION_THRESHOLDS),
        )
    )


def noise_level(image: Tensor) -> float:
    """Estimate the standard deviation of the noise of `image` [3, H, W], whose values run from 0 to 255.

    It follows from the median of what Immerkær's filter (1996), the product of two second differences, leaves of the
    image: the filter removes everything that varies linearly along a row or a column. 0 for fewer than 3 rows or
    columns.
    """
    if min(image.shape[1:]) < 3:
        return 0.0
    response = image.diff(n=2, dim=1).diff(n=2, dim=2)
    # The filter's coefficients have a norm of 6; 0.6745 is the median of a normal variable's magnitude.
    return response.abs().median().item() / (6 * 0.6745)


def sharpness(image: Tensor, noise: float) -> float:
    """Measure how much of the change over 4 pixels occurs from one pixel to the next.

    It is the ratio of the mean squared differences of `image` [3, H, W], from 0 to 255, over 1 and over 4 pixels, less
    what noise of the standard deviation `noise` adds to both. Steps between even surfaces give 1/4, and gradients,
    which they become when they are blurred, 1/16. An image of one even surface counts as sharp.
    """
    near, far = (
        (_mean_square_difference(image, distance, 1) + _mean_square_difference(image, distance, 2)) / 2 - 2 * noise**2
        for distance in (1, 4)
    )
    # Rounding to 8 bits hides differences below `rounding`, and errors of the noise level those below `hidden`. The
    # first draws the ratio towards that of a sharp image, the second towards that of a blurred one.
    rounding, hidden = 0.25, 0.2 * noise**2
    return (max(near, 0) + rounding * 0.25 + hidden * 0.1) / (max(far, 0) + rounding + hidden)


def blockiness(image: Tensor) -> float:
    """Measure how much larger the jumps of an image are at the borders of JPEG's 8×8 blocks than inside them.

    The values of `image`, [3, H, W], run from 0 to 255. A jump is a third difference of the luminance, across four
    pixels in a row or column. The mean is taken over their logarithms, so that strong edges count no more than many
    weak ones. Blocks are looked for where they are in a file that has not been cropped since. Without a border the
    result is 1.
    """
    luminance = torch.tensordot(image.new_tensor([0.299, 0.587, 0.114]), image, dims=1)
    at_borders, inside = [], []
    for plane in (luminance, luminance.T):
        if plane.shape[1] < 10:  # two pixels on both sides of the border after the eighth pixel
            continue
        jumps = (plane.diff(n=3, dim=1).abs() / 2 + 1).log()
        # Jump i is between pixels i + 1 and i + 2.
        is_border = torch.arange(1, jumps.shape[1] + 1, device=plane.device) % 8 == 7
        at_borders.append(jumps[:, is_border].flatten())
        inside.append(jumps[:, ~is_border].flatten())
    if not at_borders:
        return 1.0
    return math.exp((torch.cat(at_borders).mean() - torch.cat(inside).mean()).item())


def _middle(image: Tensor) -> Tensor:
    for axis in (1, 2):
        length = min(image.shape[axis], _MOST_PIXELS_A_SIDE)
        start = (image.shape[axis] - length) // 2 // 8 * 8
        image = image.narrow(axis, start, length)
    return image


def _mean_square_difference(image: Tensor, distance: int, axis: int) -> float:
    length = image.shape[axis] - distance
    if length < 1:
        return 0.0
    return (image.narrow(axis, distance, length) - image.narrow(axis, 0, length)).square().mean().item()


def _phrase(phrases: tuple[str, ...], value: float, thresholds: tuple[float, ...]) -> str:
    return phrases[sum(value > threshold for threshold in thresholds)]
