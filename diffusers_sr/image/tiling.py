"""Process an image of any size in tiles of bounded size, and blend the tiles without seams.

Positions and weights are those of the official SeeSR code, whose results they reproduce.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Window(NamedTuple):
    """Where a tile lies in an image `[..., H, W]`."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, image: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """Give the view of `image` under this window, one unit of which is `scale` pixels of `image`."""
        return image[
            ...,
            self.top * scale : (self.top + self.height) * scale,
            self.left * scale : (self.left + self.width) * scale,
        ]


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """List where tiles begin along an axis: every `tile - overlap`, and the last one flush with the end.

    `tile <= length`, and `overlap < tile` unless there is only one tile. Neighbours overlap by `overlap`, the last two
    by at least as much.
    """
    if tile == length:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def tile_windows(height: int, width: int, tile: int, overlap: int) -> list[Window]:
    """List the tiles of an image, row by row, all of one size.

    An image with no more pixels than a `tile × tile` square is one tile, whatever its shape. Otherwise the tiles are
    squares with a side of `tile`, or of the image's shorter side if that is less. (A strip narrower than twice the
    overlap, for which the official code takes more and more tiles or never returns, gets tiles as high as the strip
    and twice the overlap wide.)
    """
    if height * width <= tile * tile:
        return [Window(0, 0, height, width)]
    side = min(tile, max(height, 2 * overlap), max(width, 2 * overlap))
    tile_height, tile_width = min(side, height), min(side, width)
    return [
        Window(top, left, tile_height, tile_width)
        for top in tile_starts(height, tile_height, overlap)
        for left in tile_starts(width, tile_width, overlap)
    ]


def gaussian_weights(height: int, width: int) -> torch.Tensor:
    """Compute the weight of each pixel of a tile in the blend, `[height, width]` in float32, before normalisation.

    It is a gaussian of variance 0.01 in coordinates that span one unit per tile. As in the official code, its centre
    is half a pixel below the middle: at `height / 2`, but at `(width - 1) / 2`.
    """
    rows = (torch.arange(height, dtype=torch.float64) - height / 2) / height
    columns = (torch.arange(width, dtype=torch.float64) - (width - 1) / 2) / width
    variance = 0.01
    weights = [torch.exp(-(axis**2) / (2 * variance)) / (2 * torch.pi * variance) ** 0.5 for axis in (rows, columns)]
    return torch.outer(*weights).float()


def tile_groups(windows: Sequence[Window], size: int) -> list[Sequence[Window]]:
    """Split the windows into groups of at most `size`: what goes through a model in one call."""
    return [windows[start : start + size] for start in range(0, len(windows), size)]


def crop_tiles(image: torch.Tensor, group: Sequence[Window], scale: int = 1) -> torch.Tensor:
    """Cut the tiles of a group, `[B, C, H, W] -> [tiles * B, C, h, w]`: the image is the fastest index."""
    return torch.cat([window.crop(image, scale) for window in group])


def tiled_map(
    function: Callable[[torch.Tensor, int], torch.Tensor],
    image: torch.Tensor,
    windows: Sequence[Window],
    group_size: int = 1,
    input_scale: int = 1,
    output_scale: int = 1,
) -> torch.Tensor:
    """Apply `function` to the tiles of an image and blend what it returns with `gaussian_weights`.

    Args:
        function: called with the tiles of a group (see `crop_tiles`) and the index of the group; returns
            `[tiles * B, any channels, h, w]`.
        image: `[B, C, H, W]`.
        windows: tiles from `tile_windows`. A single one covers the image: `function` then gets the image itself, and
            what it returns is the result.
        group_size: how many tiles `function` is given in one call.
        input_scale, output_scale: pixels of `image`, and of the result, to one unit of the windows.
    """
    if len(windows) == 1:
        return function(image, 0)
    height = max(window.top + window.height for window in windows) * output_scale
    width = max(window.left + window.width for window in windows) * output_scale
    weights = gaussian_weights(windows[0].height * output_scale, windows[0].width * output_scale).to(image.device)
    weight_sum = weights.new_zeros(height, width)
    weighted_sum: torch.Tensor | None = None
    for index, group in enumerate(tile_groups(windows, group_size)):
        tiles = function(crop_tiles(image, group, input_scale), index)
        if weighted_sum is None:
            weighted_sum = weights.new_zeros(image.shape[0], tiles.shape[1], height, width)
        for window, tile in zip(group, tiles.chunk(len(group)), strict=True):
            window.crop(weighted_sum, output_scale).add_(tile * weights)
            window.crop(weight_sum, output_scale).add_(weights)
    assert weighted_sum is not None
    return (weighted_sum / weight_sum).to(tiles.dtype)
