"""The prediction that a sampling loop calls: a denoiser on all tiles, shown the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..image.tiling import Window, tile_groups, tiled_map
from .denoiser import Denoiser
from .finite import Stage, in_dtype
from .guidance import Guidance
from .placement import model_dtype


class GuidedPrediction:
    """The noise that a denoiser predicts in whole latents, tile by tile and with guidance.

    The models get everything in the UNet's type. The latents are the loop's: their type is also that of the result.

    Args:
        denoiser: the method's.
        guidance: read again in every step.
        windows: the tiles.
        tile_batch_size: tiles the denoiser takes in one call.
        unit: pixels per latent.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        windows: Sequence[Window],
        tile_batch_size: int,
        unit: int,
    ) -> None:
        self._denoiser = denoiser
        self._guidance = guidance
        self._windows = windows
        self._tile_batch_size = tile_batch_size
        self._unit = unit
        self._dtype = model_dtype(denoiser.unet)
        self._stage = Stage("denoising", *denoiser.models)

    def show(self, control: Any, num_results: int) -> None:
        """Compute all that is the same at every step from now on of the control of the whole image.

        Raises:
            NotFiniteError: if it is not finite.
        """
        stage = Stage("embedding the control image", *self._denoiser.models)
        groups = tile_groups(self._windows, self._tile_batch_size)
        self._controls = stage.run(lambda: self._denoiser.control_tiles(control, num_results, groups, self._unit))

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Predict from latents `[num_results, channels, h, w]`, scaled for the model, at a timestep.

        Raises:
            NotFiniteError: if the prediction is not finite.
        """

        def predict_tiles(tiles: torch.Tensor, group: int) -> torch.Tensor:
            inputs = in_dtype((tiles, self._guidance.texts, self._controls[group]), self._dtype)
            predictions = self._denoiser.predict(inputs[0], timestep, *inputs[1:])
            return self._guidance.combine([prediction.to(tiles.dtype) for prediction in predictions])

        return self._stage.run(lambda: tiled_map(predict_tiles, latents, self._windows, self._tile_batch_size))
