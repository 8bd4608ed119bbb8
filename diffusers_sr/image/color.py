"""Give a super-resolved image the colours of the image it was made from. Both are `[B, 3, H, W]` in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def adain(image: torch.Tensor, reference: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """Give each channel of `image`, over the whole image, the mean and deviation of `reference`.

    This is adaptive instance normalisation, the official default. It changes the colours of an image as a whole, by
    one factor and one offset for each channel. `epsilon` is added to the variances.
    """
    deviation, mean = _deviation_and_mean(image, epsilon)
    reference_deviation, reference_mean = _deviation_and_mean(reference, epsilon)
    return (image - mean).mul_(reference_deviation / deviation).add_(reference_mean).clamp_(0, 1)


def wavelet(image: torch.Tensor, reference: torch.Tensor, levels: int = 5) -> torch.Tensor:
    """Put the fine detail of `image` on the coarse colours of `reference`.

    Both are split by an à trous wavelet decomposition of `levels` levels. Since it is linear, what remains of their
    difference after all levels is what has to be added to `image`.
    """
    result = torch.empty_like(image)
    # One channel at a time: with its intermediates, a whole image would need several times its own memory.
    # They are views whatever the batch's memory format; `flatten(0, 1)` of a channels-last batch is not.
    planes = ([plane for one in tensor for plane in one.split(1)] for tensor in (result, image, reference))
    for result_plane, image_plane, reference_plane in zip(*planes, strict=True):
        coarse = reference_plane - image_plane
        for level in range(levels):
            coarse = _binomial_blur(coarse, 2**level)
        result_plane.copy_(coarse.add_(image_plane).clamp_(0, 1))
    return result


COLOR_FIXES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"adain": adain, "wavelet": wavelet}


def _deviation_and_mean(image: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    variance, mean = torch.var_mean(image, dim=(2, 3), keepdim=True)
    return (variance + epsilon).sqrt(), mean


def _binomial_blur(plane: torch.Tensor, step: int) -> torch.Tensor:
    """Blur `[1, H, W]` by [1/4, 1/2, 1/4] on pixels `step` apart along both axes; the border is replicated."""
    plane = F.pad(plane, (step, step, step, step), mode="replicate")
    for axis in (-2, -1):
        length = plane.shape[axis] - 2 * step
        blurred = plane.narrow(axis, step, length) / 2
        for start in (0, 2 * step):
            blurred.add_(plane.narrow(axis, start, length), alpha=1 / 4)
        plane = blurred
    return plane
