"""XPSR's noise prediction (paper, section 3.2), and PASD's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..attention.control_features import control_features
from ..sampling.denoiser import ControlledDenoiser, in_one_batch
from .adapter import LowLevel


class XPSRControl(NamedTuple):
    """The inputs of the ControlNet.

    Args:
        image: the enlarged image, `[images, 3, H, W]` in [0, 1], or the ControlNet's embeddings of its tiles.
        low_level: what the adapter prepares from the low-level prompts: from the negative ones and the prompts, from
            the prompts alone if they are not guided, or nothing if the adapter takes none. All tiles share it.
    """

    image: torch.Tensor
    low_level: list[LowLevel]


class XPSRDenoiser(ControlledDenoiser):
    """The ControlNet fuses both prompts, and the UNet attends to its residuals."""

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, texts: Sequence[torch.Tensor], control: XPSRControl
    ) -> Sequence[torch.Tensor]:
        """Predict the noise, with the ControlNet's residuals for both halves of the guidance."""
        latents, text = in_one_batch(latents, texts)
        # Without guidance, which a callback can also switch off, the only half is that of the prompt, the last one.
        control = XPSRControl(control.image.repeat(len(texts), 1, 1, 1), control.low_level[-len(texts) :])
        residuals = self.residuals(latents, timestep, text, control)
        return self.predict_from(latents, timestep, text, residuals).chunk(len(texts))

    def residuals(
        self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, control: XPSRControl
    ) -> list[torch.Tensor]:
        """Run the ControlNet on a whole batch, with its semantic fusion; see `control_features`."""
        with self.adapter.conditioning(low_level=control.low_level or None):
            return control_features(
                self.controlnet, latents, timestep, text, control.image, self.controlnet_conditioning_scale
            )

    def predict_from(
        self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, residuals: list[torch.Tensor]
    ) -> torch.Tensor:
        """Run the UNet on a whole batch, with pixel attention to the residuals."""
        with self.adapter.conditioning(controls=residuals):
            return self.run_unet(latents, timestep, text, residuals)
