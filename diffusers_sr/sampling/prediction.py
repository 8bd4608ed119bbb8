"""The prediction that a sampling loop calls: a denoiser on all tiles, shown the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..image.tiling import Window, tile_groups, tile_windows, tiled_map
from .caches import Caches
from .denoiser import Denoiser
from .finite import Stage, in_dtype
from .guidance import Guidance
from .out_of_memory import Smaller, halved, with_less_memory
from .placement import model_dtype

_SMALLEST_TILE = 8
"""Latents; a UNet that halves them three times has one left."""


class GuidedPrediction:
    """The noise that a denoiser predicts in whole latents, tile by tile and with guidance.

    The models get everything in the UNet's type. The latents are the loop's: their type is also that of the result.
    Where memory runs out, it goes on one tile at a time, and then with tiles of half the side.

    Args:
        denoiser: the method's.
        guidance: read again in every step.
        windows: the tiles.
        tile_batch_size: tiles the denoiser takes in one call.
        unit: pixels per latent.
        overlap: that of the tiles, in latents.

    Raises:
        ValueError: if there are several tiles, and a model has hooks that keep values for the next step.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        windows: Sequence[Window],
        tile_batch_size: int,
        unit: int,
        overlap: int = 0,
    ) -> None:
        self._denoiser = denoiser
        self._guidance = guidance
        self._windows = windows
        self._tile_batch_size = tile_batch_size
        self._unit = unit
        self._overlap = overlap
        self._dtype = model_dtype(denoiser.unet)
        self._stage = Stage("denoising", *denoiser.models)
        self._caches = Caches(denoiser.models)
        self._caches.check(len(tile_groups(windows, tile_batch_size)))
        self._control: Any = None
        self._num_results = 0
        self._controls: list[Any] | None = None

    def show(self, control: Any, num_results: int) -> None:
        """Compute all that is the same at every step from now on of the control of the whole image.

        Raises:
            NotFiniteError: if it is not finite.
        """
        self._control, self._num_results, self._controls = control, num_results, None
        with_less_memory("embedding the control image", self._tile_controls, self._shrink)

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Predict from latents `[num_results, channels, h, w]`, scaled for the model, at a timestep.

        Raises:
            NotFiniteError: if the prediction is not finite.
        """

        def predict_tiles(tiles: torch.Tensor, group: int) -> torch.Tensor:
            inputs = in_dtype((tiles, self._guidance.texts, self._tile_controls()[group]), self._dtype)
            predictions = self._denoiser.predict(inputs[0], timestep, *inputs[1:])
            return self._guidance.combine([prediction.to(tiles.dtype) for prediction in predictions])

        def predict() -> torch.Tensor:
            self._tile_controls()  # in a stage of its own
            return self._stage.run(lambda: tiled_map(predict_tiles, latents, self._windows, self._tile_batch_size))

        with self._caches.step():
            return with_less_memory("denoising", predict, self._shrink)

    def _tile_controls(self) -> list[Any]:
        """Give what is the same at every step for each group of tiles; it is computed if the tiles are new."""
        if self._controls is None:
            groups = tile_groups(self._windows, self._tile_batch_size)
            stage = Stage("embedding the control image", *self._denoiser.models)
            self._controls = stage.run(
                lambda: self._denoiser.control_tiles(self._control, self._num_results, groups, self._unit)
            )
        return self._controls

    def _shrink(self) -> list[Smaller]:
        if self._caches:  # they allow one tile only
            return []
        self._controls = None
        if min(self._tile_batch_size, len(self._windows)) > 1:
            smaller = [Smaller("tile_batch_size", self._tile_batch_size, 1)]
            self._tile_batch_size = 1
            return smaller
        height, width = (max(window[axis] + window[axis + 2] for window in self._windows) for axis in (0, 1))
        tile = math.isqrt(self._windows[0].height * self._windows[0].width)
        if tile < 2 * _SMALLEST_TILE:
            return []
        half = halved(tile, _SMALLEST_TILE)
        overlap = min(self._overlap, half) // 2
        self._windows = tile_windows(height, width, half, overlap)
        unit = self._unit
        smaller = [Smaller("tile_size", tile * unit, half * unit)]
        if overlap != self._overlap:
            smaller.append(Smaller("tile_overlap", self._overlap * unit, overlap * unit))
        self._overlap = overlap
        return smaller
