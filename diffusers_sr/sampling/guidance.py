"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass
class Guidance:
    """The texts of a sampling run and the weight between them, which a callback may change between two steps.

    Args:
        prompt_embeds, negative_prompt_embeds: `[B, tokens, channels]`; without the second there is no guidance.
        scale: weight of the prompt against the negative prompt; at 1 or below there is no guidance.
    """

    prompt_embeds: torch.Tensor
    negative_prompt_embeds: torch.Tensor | None
    scale: float

    @property
    def texts(self) -> list[torch.Tensor]:
        """The embeddings the denoiser is run on: of the negative prompt and the prompt, or of the prompt alone."""
        if self.scale > 1 and self.negative_prompt_embeds is not None:
            return [self.negative_prompt_embeds, self.prompt_embeds]
        return [self.prompt_embeds]

    def combine(self, predictions: Sequence[torch.Tensor]) -> torch.Tensor:
        """Combine the predictions for `texts` (Ho and Salimans 2022); a single one is returned as it is."""
        if len(predictions) == 1:
            return predictions[0]
        negative, positive = predictions
        return negative + self.scale * (positive - negative)
