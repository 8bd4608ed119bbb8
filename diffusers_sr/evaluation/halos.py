"""How far an enlargement overshoots at edges: dark and light outlines, which a photo does not have."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .measures import luma

_SCALE = 4
_NEAR = 4  # pixels of the low-resolution chart on each side of an edge in which an outline is looked for


def step_chart(side: int = 192, levels: tuple[float, float] = (0.25, 0.75)) -> Tensor:
    """Draw a square of the second grey level on the first, [1, 3, side, side].

    Its edges lie at a quarter and three quarters of each side, the left one less 1 pixel, the upper one less 2 and the
    right one less 3, so that they divide low-resolution pixels in every way there is at a scale of 4.

    Args:
        side: of the chart in pixels, a multiple of 16.
        levels: of the ground and of the square, in [0, 1].
    """
    ground, square = levels
    chart = torch.full((1, 3, side, side), ground)
    near, far = side // 4, 3 * side // 4
    chart[..., near - 2 : far, near - 1 : far - 3] = square
    return chart


def step_overshoot(
    enlarge: Callable[[Tensor], Tensor], side: int = 192, levels: tuple[float, float] = (0.25, 0.75)
) -> float:
    """Measure how far `enlarge` overshoots at the edges of `step_chart`, as a share of their height.

    The chart is reduced by averaging 4 x 4 pixels, which has no outlines. Luma across each edge is averaged along its
    middle half. Up to 16 pixels from the edge, it is compared with the mean of the next 16 pixels on the same side of
    it, so that a change of the levels as such does not count.

    Args:
        enlarge: called with float [1, 3, side / 4, side / 4] RGB in [0, 1]; returns [1, 3, side, side].
        side: of the chart in pixels, a multiple of 16, at least 144.
        levels: of the ground and of the square, in [0, 1].

    Returns:
        The largest overshoot of all edges and both sides of them; 0 if there is none.
    """
    result = luma(enlarge(F.avg_pool2d(step_chart(side, levels), _SCALE)).float().cpu())[0]
    near, far = side // 4, 3 * side // 4
    middle = slice(3 * side // 8, 5 * side // 8)
    down, across = result[:, middle].mean(1), result[middle].mean(0)
    edges = ((across, near - 1), (across.flip(0), side - far + 3), (down, near - 2), (down.flip(0), side - far))
    height = levels[1] - levels[0]
    return max(0.0, *(_overshoot(profile / height, edge) for profile, edge in edges))


def _overshoot(profile: Tensor, edge: int) -> float:
    """Measure the overshoot on both sides of a rise by 1 that begins at pixel `edge`."""
    near = _NEAR * _SCALE
    below, above = profile[edge - 2 * near : edge], profile[edge : edge + 2 * near]
    undershoot = below[:near].mean() - below[near:].min()
    return float(torch.maximum(undershoot, above[:near].max() - above[near:].mean()))
