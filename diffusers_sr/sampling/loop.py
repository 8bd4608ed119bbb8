"""The one sampling loop; it does not know what predicts the noise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from tqdm.auto import tqdm

from .schedule import timesteps_to_take

if TYPE_CHECKING:
    from .call import Generators

PredictNoise: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Maps latents `[B, channels, H, W]`, scaled for the model, and a timestep to the noise in them, of the same shape."""

AfterStep: TypeAlias = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Maps step, timestep, latents and predicted noise to the latents of the next step."""


def sample(
    predict_noise: PredictNoise,
    latents: torch.Tensor,
    scheduler: Any,
    *,
    generator: Generators = None,
    is_interrupted: Callable[[], bool] = lambda: False,
    after_step: AfterStep | None = None,
    progress_bar: Callable[..., Any] = tqdm,
) -> torch.Tensor:
    """Denoise latents over the timesteps of a scheduler, from its start on.

    Args:
        predict_noise: the prediction that the scheduler's steps are computed from.
        latents: `[B, channels, H, W]` at the first timestep.
        scheduler: a scheduler of diffusers whose timesteps are set, and which no other sampling run uses.
        generator: for schedulers that draw noise in their steps.
        is_interrupted: called before every step; once it returns True, the latents are returned as they are.
        after_step: called after every step; it returns the latents of the next one.
        progress_bar: called with the number of steps as `total`.

    Returns:
        Denoised latents, `[B, channels, H, W]`.
    """
    timesteps = timesteps_to_take(scheduler)
    draws = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": generator} if draws else {}
    with progress_bar(total=len(timesteps)) as bar:
        for step, timestep in enumerate(timesteps):
            if is_interrupted():
                break
            noise = predict_noise(scheduler.scale_model_input(latents, timestep), timestep)
            latents = scheduler.step(noise, timestep, latents, **options, return_dict=False)[0]
            if after_step is not None:
                latents = after_step(step, timestep, latents, noise)
            bar.update()
    return latents
