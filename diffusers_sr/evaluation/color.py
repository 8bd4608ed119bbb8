"""How well colours survive: errors along each axis of an opponent colour space, and the gain of each axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from .measures import check_images

# Orthonormal, so that an error along one axis says nothing about the others.
AXES = {
    "grey": torch.tensor([1.0, 1.0, 1.0]) / math.sqrt(3),
    "orange_blue": torch.tensor([1.0, 0.0, -1.0]) / math.sqrt(2),
    "magenta_green": torch.tensor([1.0, -2.0, 1.0]) / math.sqrt(6),
}
"""Directions in RGB: from black to white, from blue to orange, and from green to magenta."""


def axis_psnr(reference: Tensor, result: Tensor, axis: str) -> Tensor:
    """Compute the peak signal-to-noise ratio of what two images differ by along one of `AXES`, in dB against 1.

    The mean of the three mean squared errors is that of the RGB channels. It is infinite if there is no difference.

    Args:
        reference: float [batch, 3, height, width] RGB in [0, 1].
        result: the same shape.
        axis: name of the axis.

    Returns:
        One value for each image, [batch].

    Raises:
        ValueError: if the two differ in shape.
    """
    check_images(reference, result, 1)
    difference = torch.einsum("c,bchw->bhw", AXES[axis].to(reference), reference - result)
    return -10 * torch.log10(difference.square().mean((1, 2)))


def color_gains(
    reconstruct: Callable[[Tensor], Tensor], levels: int = 5, side: int = 64, batch_size: int = 1
) -> dict[str, float]:
    """Measure what `reconstruct` leaves of each of `AXES`, on flat patches all over the gamut.

    A gain is the slope of the straight line, fitted by least squares, from the patches' positions on the axis to those
    of their reconstructions, which are averaged over the inner half of each side. It is 1 if the axis is kept and 0 if
    it is lost; an offset that is equal in all patches does not count.

    Args:
        reconstruct: called with float [batch, 3, side, side] RGB in [0, 1]; returns the same shape.
        levels: number of values of each channel, evenly from 0 to 1; there is a patch for each combination.
        side: side of a patch in pixels.
        batch_size: how many patches it is called with at once.

    Returns:
        The gains by the axis' name.
    """
    patches = torch.tensor([*product(torch.linspace(0, 1, levels).tolist(), repeat=3)])
    inner = slice(side // 4, side - side // 4)
    flat = (batch[:, :, None, None].expand(-1, -1, side, side) for batch in patches.split(batch_size))
    results = torch.cat([reconstruct(batch)[..., inner, inner].float().mean((2, 3)).cpu() for batch in flat])
    gains = {}
    for name, axis in AXES.items():
        before, after = patches @ axis, results @ axis
        centred = before - before.mean()
        gains[name] = float(centred @ after / centred.square().sum())
    return gains
