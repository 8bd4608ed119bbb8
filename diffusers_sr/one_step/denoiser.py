"""The prediction of a one-step model: a stock UNet with LoRA sets, and PiSA-SR's dials between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from ..sampling.denoiser import StockDenoiser
from .lora import LoraSets
from .prediction import dial_passes, weighted_sum


class OneStepDenoiser(StockDenoiser):
    """The UNet's output, from one pass with all LoRA sets or, for PiSA-SR's dials, from those of `dial_passes`.

    Args:
        lora: the sets that the dials act on, attached to the UNet. Without them the UNet runs as it is, which is right
            where the dials are equal.
        pixel_scale, semantic_scale: the dials.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        lora: LoraSets | None = None,
        pixel_scale: float = 1.0,
        semantic_scale: float = 1.0,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(unet, cross_attention_kwargs)
        self.lora = lora
        self.passes = dial_passes(pixel_scale, semantic_scale)

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, texts: Sequence[torch.Tensor], control: None = None
    ) -> list[torch.Tensor]:
        """Predict from one text, `[tiles * B, channels, h, w]`."""

        def output(sets: tuple[str, ...]) -> torch.Tensor:
            if self.lora is not None:
                self.lora.activate(self.unet, sets)
            (prediction,) = super(OneStepDenoiser, self).predict(latents, timestep, texts)
            return prediction

        try:
            return [weighted_sum(self.passes, output)]
        finally:
            if self.lora is not None:
                self.lora.activate(self.unet, self.lora.names)
