"""AddSR's prediction-based self-refinement (PSR): a step is shown what the step before it predicted.

`pipelines/pipeline_addsr.py` of the official code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..sampling.loop import PredictNoise
from ..sampling.prediction import GuidedPrediction
from .denoiser import SeeSRControl
from .four_steps import FourStepScheduler


def refined_condition(image: torch.Tensor, decoded: torch.Tensor, weight: float) -> torch.Tensor:
    """Blend the enlarged photo with the image that a step predicted.

    The ControlNet and the tagger see the result in the next step. It is the photo that is blended each time, not the
    condition of the step before; the tags of the prompt stay those of the photo.

    Args:
        image: the photo, `[B, 3, H, W]` in [0, 1].
        decoded: what the VAE decodes of the step's latents, in [0, 1] or beyond.
        weight: that of the prediction.
    """
    return weight * decoded.clamp(0, 1) + (1 - weight) * image


def refined_prediction(
    prediction: GuidedPrediction, scheduler: FourStepScheduler, refine: Callable[[torch.Tensor], SeeSRControl]
) -> PredictNoise:
    """Show the prediction a new control before each step but the first.

    Args:
        prediction: shown the control of the photo already.
        refine: makes a control from the image's latents `[B, channels, h, w]` that the step before solved for.
    """
    original: torch.Tensor | None = None

    def predict_noise(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        nonlocal original
        if original is not None:
            prediction.show(refine(original), len(latents))
        noise = prediction(latents, timestep)
        original = scheduler.predict_original(noise, timestep, latents)
        return noise

    return predict_noise
