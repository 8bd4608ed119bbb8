"""The prediction that a sampling loop calls: a denoiser on all tiles, shown the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..image.tiling import Window, tile_groups
from .denoiser import Denoiser, guided_prediction
from .finite import Stage
from .guidance import Guidance


class GuidedPrediction:
    """The noise that a denoiser predicts in whole latents, tile by tile and with guidance.

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
        self._groups = tile_groups(windows, tile_batch_size)
        self._unit = unit
        self._controls: list[Any] = []
        self._predict = guided_prediction(denoiser, self._controls, guidance, windows, tile_batch_size)
        self._stage = Stage("denoising", *denoiser.models)

    def show(self, control: Any, num_results: int) -> None:
        """Compute all that is the same at every step from now on of the control of the whole image.

        Raises:
            NotFiniteError: if it is not finite.
        """
        stage = Stage("embedding the control image", *self._denoiser.models)
        self._controls[:] = stage.run(
            lambda: self._denoiser.control_tiles(control, num_results, self._groups, self._unit)
        )

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Predict from latents `[num_results, channels, h, w]`, scaled for the model, at a timestep.

        Raises:
            NotFiniteError: if the prediction is not finite.
        """
        return self._stage.run(lambda: self._predict(latents, timestep))
