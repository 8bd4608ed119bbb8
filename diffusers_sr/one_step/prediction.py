"""What a one-step model's UNet predicts, and what that says of the image.

Noise and x0 are those of `diffusers_sr.sampling.closed_form`. For float64 latents the roots of ᾱ are taken in float64
where noise is added and in float32 where it is removed, as the `DDPMScheduler` of the official codes does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch

from ..sampling.closed_form import without_noise

Prediction = Literal["residual", "x0"]
"""What the UNet's output is: the residual between the photo's latents and the image's, or noise at a timestep."""

PIXEL, SEMANTIC = "pixel", "semantic"
"""PiSA-SR's two LoRA sets."""


def without_residual(latents: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Subtract the predicted residual from the photo's latents, z - ε (PiSA-SR, arXiv:2412.03017, `PiSASR_eval`).

    No ᾱ is in it: the timestep only tells the UNet which of its tasks it has.
    """
    return latents - residual


def denoise(prediction: Prediction, latents: torch.Tensor, output: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Compute the image's latents from the UNet's input and output.

    "x0" is what one `DDPMScheduler.step` gives for the official codes of OSEDiff (arXiv:2406.08177, equation 3) and
    GDPO-SR, and what OMGSR and HYPIR write out. A scheduler with one timestep refuses the step in newer diffusers, and
    would add its noise.

    Args:
        alpha: ᾱ of the UNet's timestep; a residual does not depend on it.

    Raises:
        ValueError: if `prediction` is not one of `Prediction`.
    """
    if prediction == "residual":
        return without_residual(latents, output)
    if prediction == "x0":
        return without_noise(latents, output, alpha)
    raise ValueError(f"prediction={prediction!r}, expected one of {list(get_args(Prediction))}.")


class Pass(NamedTuple):
    """A pass of the UNet.

    Args:
        sets: the LoRA sets that are active in it.
        weight: what its output is multiplied with in the sum.
    """

    sets: tuple[str, ...]
    weight: float


def dial_passes(pixel_scale: float, semantic_scale: float) -> list[Pass]:
    """List the passes that PiSA-SR's dials need (its section 3.4, `PiSASR_eval._predict_no_tiling`).

    The prediction is pixel·ε_pixel + semantic·(ε_both - ε_pixel), where ε_both is predicted with both LoRA sets and
    ε_pixel with the pixel set alone. That is semantic·ε_both + (pixel - semantic)·ε_pixel, so that equal dials need
    ε_both alone, and semantic 0 needs ε_pixel alone. Scaling the sets themselves is something else.
    """
    if pixel_scale == semantic_scale:
        return [Pass((PIXEL, SEMANTIC), semantic_scale)]
    if semantic_scale == 0:
        return [Pass((PIXEL,), pixel_scale)]
    return [Pass((PIXEL, SEMANTIC), semantic_scale), Pass((PIXEL,), pixel_scale - semantic_scale)]


def weighted_sum(passes: Sequence[Pass], predict: Callable[[tuple[str, ...]], torch.Tensor]) -> torch.Tensor:
    """Add up the passes' predictions.

    Args:
        predict: runs the UNet with these LoRA sets.
    """
    total: torch.Tensor | None = None
    for sets, weight in passes:
        prediction = weight * predict(sets) if weight != 1 else predict(sets)
        total = prediction if total is None else total + prediction
    assert total is not None
    return total
