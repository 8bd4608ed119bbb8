"""The official codes' latent tiles, where these differ from the product's.

PiSA-SR's weights are symmetric, those of OSEDiff and OMGSR have their centre half a pixel below the middle, as SeeSR's
do. All of them keep the overlap of a strip that is narrower than a tile, and add up the tiles in float32, whatever the
models' type, column by column. PiSA-SR's own code fails where the picture is narrower than a tile, since its weights
keep the tile's size: here they shrink with it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from diffusers_sr.image.tiling import Window, tile_starts


def official_windows(height: int, width: int, tile: int, overlap: int) -> list[Window]:
    """List the tiles in the official order; one window is not a tile but the whole.

    Raises:
        ValueError: if tiles have no more than their overlap, with which the official codes never end.
    """
    if height * width <= tile * tile:
        return [Window(0, 0, height, width)]
    side = min(tile, height, width)
    if side <= overlap:
        raise ValueError(
            f"{height} × {width} latents have tiles of {side}, no more than their overlap of {overlap}: the official "
            "code would never end. Give a smaller overlap."
        )
    return [
        Window(top, left, side, side)
        for left in tile_starts(width, side, overlap)
        for top in tile_starts(height, side, overlap)
    ]


def tile_weights(side: int, is_symmetric: bool) -> torch.Tensor:
    """Compute the weights of a tile in float64: a gaussian of variance 0.01 in coordinates of one unit per tile."""
    position = torch.arange(side, dtype=torch.float64)
    rows, columns = position - ((side - 1) / 2 if is_symmetric else side / 2), position - (side - 1) / 2
    axes = [torch.exp(-((axis / side) ** 2) / 0.02) / (0.02 * torch.pi) ** 0.5 for axis in (rows, columns)]
    return torch.outer(*axes)


def predict_tiled(
    predict: Callable[[torch.Tensor], torch.Tensor],
    latents: torch.Tensor,
    windows: list[Window],
    weights: torch.Tensor,
) -> torch.Tensor:
    """Predict tile by tile, and blend in float32, which the result stays in."""
    total = torch.zeros(latents.shape)
    contributors = torch.zeros(latents.shape)
    for window in windows:
        window.crop(total).add_(predict(window.crop(latents)) * weights)
        window.crop(contributors).add_(weights)
    return total / contributors
