"""SeeSR's noise prediction (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..attention.control_features import control_features
from ..sampling.denoiser import ControlledDenoiser, in_one_batch


class SeeSRControl(NamedTuple):
    """The inputs of ControlNet and adapter.

    Args:
        image: enlarged, `[images, 3, H, W]` in [0, 1], or the ControlNet's embedding of its tiles.
        representation: that of the image, as `SeeSRAdapter.prepare` returns it: all tiles share it.
        size: height and width of the image without its padding; None if it has none.
    """

    image: torch.Tensor
    representation: dict[str, dict[str, torch.Tensor]]
    size: tuple[int, int] | None = None


class SeeSRDenoiser(ControlledDenoiser):
    """Both hosts attend to the representation in both halves of the guidance, which thus acts on the text alone."""

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, texts: Sequence[torch.Tensor], control: SeeSRControl
    ) -> Sequence[torch.Tensor]:
        """Predict the noise for all texts in one batch."""
        latents, text = in_one_batch(latents, texts)
        with self.adapter.conditioned(control.representation):
            residuals = control_features(
                self.controlnet,
                latents,
                timestep,
                text,
                control.image.repeat(len(texts), 1, 1, 1),
                self.controlnet_conditioning_scale,
            )
            return self.run_unet(latents, timestep, text, residuals).chunk(len(texts))
