"""Other colours for a photograph, so that a model that learns from few sees all colours alike."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

# The largest factor on saturation, and the largest shift of a channel's mean.
_MOST_SATURATION, _MOST_SHIFT = 3.0, 0.4
_GREY = torch.full((3, 3), 1 / 3)
# The cross product with the grey axis: red, green and blue follow each other around it.
_TURN = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)


def turn_hue(angle: float, saturation: float) -> Tensor:
    """Make the matrix [3, 3] that turns RGB about its grey axis and scales the distance from that axis.

    Args:
        angle: in radians; a third of a full turn makes red green, green blue, and blue red.
        saturation: factor on the distance; 0 makes everything grey.
    """
    color = math.cos(angle) * (torch.eye(3) - _GREY) + math.sin(angle) * _TURN
    return _GREY + saturation * color


def jitter_color(image: Tensor, generator: Generator) -> Tensor:
    """Turn the hue by any angle, multiply the saturation by 0 to 3, and shift each channel by up to 0.4.

    All three are drawn uniformly. What leaves the gamut is clipped, so that colours on its surface are common.

    Args:
        image: float [3, height, width] RGB in [0, 1].
        generator: source of the draws, on the CPU.

    Returns:
        The same shape, in [0, 1].
    """
    angle, saturation, *shift = torch.rand(5, generator=generator).tolist()
    matrix = turn_hue(2 * math.pi * angle, _MOST_SATURATION * saturation).to(image)
    shifts = _MOST_SHIFT * (2 * torch.tensor(shift) - 1)
    return (torch.einsum("oc,chw->ohw", matrix, image) + shifts.to(image)[:, None, None]).clamp(0, 1)
