"""The prediction of a one-step model: a stock UNet with LoRA sets, and PiSA-SR's dials between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..sampling.denoiser import StockDenoiser

PIXEL, SEMANTIC = "pixel", "semantic"
"""The names of PiSA-SR's LoRA sets."""


class OneStepDenoiser(StockDenoiser):
    """What the UNet predicts, from one pass or, for PiSA-SR's dials, from two.

    `pixel_scale * e_pixel + semantic_scale * (e_both - e_pixel)` (PiSA-SR's code), where `e_pixel` is predicted with
    the pixel LoRA alone and `e_both` with both. The dials weigh predictions: weights of the LoRA would give something
    else. With equal dials `e_pixel` cancels out, with a `semantic_scale` of 0 `e_both` is not needed.

    Args:
        pixel_scale, semantic_scale: the dials.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        pixel_scale: float = 1.0,
        semantic_scale: float = 1.0,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(unet, cross_attention_kwargs)
        self.pixel_scale, self.semantic_scale = pixel_scale, semantic_scale

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, texts: Sequence[torch.Tensor], control: None = None
    ) -> list[torch.Tensor]:
        """Predict from one text, `[tiles * B, channels, h, w]`."""
        if self.pixel_scale == self.semantic_scale:
            (both,) = super().predict(latents, timestep, texts)
            return [both if self.pixel_scale == 1 else self.pixel_scale * both]
        with without_set(self.unet, SEMANTIC):
            (pixel,) = super().predict(latents, timestep, texts)
        if self.semantic_scale == 0:
            return [self.pixel_scale * pixel]
        (both,) = super().predict(latents, timestep, texts)
        return [self.pixel_scale * pixel + self.semantic_scale * (both - pixel)]


@contextmanager
def without_set(model: nn.Module, name: str) -> Iterator[None]:
    """Leave an adapter of PEFT out inside the `with` block; the others stay as they are."""
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    active = [list(layer.active_adapters) for layer in layers]
    try:
        for layer, names in zip(layers, active, strict=True):
            layer.set_adapter([each for each in names if each != name])
        yield
    finally:
        for layer, names in zip(layers, active, strict=True):
            layer.set_adapter(names)
