"""The timesteps that a sampling run takes of a scheduler: all of them, or those from a later start on."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import PNDMScheduler


def start_later(scheduler: Any, num_inference_steps: int, strength: float) -> None:
    """Leave out the first timesteps of a scheduler whose timesteps are set, as diffusers' image-to-image pipelines do.

    `strength` of the steps are left, rounded down, but at least one.

    Raises:
        ValueError: if the scheduler's steps cannot be taken from the middle on.
    """
    skipped = num_inference_steps - max(int(num_inference_steps * strength), 1)
    if skipped == 0:
        return
    if hasattr(scheduler, "set_begin_index"):  # those that count in sigmas
        scheduler.set_begin_index(skipped * scheduler.order)
    elif isinstance(scheduler, PNDMScheduler):
        if not scheduler.config.skip_prk_steps:
            raise ValueError(
                f"strength={strength} leaves out steps, but a PNDMScheduler begins with all of its Runge-Kutta steps: "
                "load it with `skip_prk_steps=True`, or take another scheduler."
            )
        left = torch.cat([scheduler.timesteps[:1], scheduler.timesteps[2:]])[skipped:]
        scheduler.timesteps = torch.cat([left[:2], left[1:]])  # it takes the second one twice
    else:
        scheduler.timesteps = scheduler.timesteps[skipped:]


def timesteps_to_take(scheduler: Any) -> torch.Tensor:
    """Give the timesteps from the scheduler's start on."""
    timesteps: torch.Tensor = scheduler.timesteps
    return timesteps[getattr(scheduler, "begin_index", None) or 0 :]
