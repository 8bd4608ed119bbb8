"""Parts of noise schedules."""

from __future__ import annotations

import math
from typing import TypeVar

from diffusers import DDIMScheduler, DDPMScheduler

SchedulerT = TypeVar("SchedulerT", DDPMScheduler, DDIMScheduler)


def first_timesteps(scheduler: SchedulerT, count: int) -> SchedulerT:
    """Copy a scheduler with the first timesteps of its schedule only, and their betas as they are.

    Raises:
        ValueError: if the schedule is shorter, or neither "linear" nor "scaled_linear".
    """
    config = scheduler.config
    if count > config.num_train_timesteps:
        raise ValueError(f"num_train_timesteps={count}: the base's schedule has {config.num_train_timesteps}.")
    share = (count - 1) / (config.num_train_timesteps - 1)
    if config.beta_schedule == "linear":
        last = config.beta_start + share * (config.beta_end - config.beta_start)
    elif config.beta_schedule == "scaled_linear":
        first_root, last_root = math.sqrt(config.beta_start), math.sqrt(config.beta_end)
        last = (first_root + share * (last_root - first_root)) ** 2
    else:
        raise ValueError(
            f"beta_schedule={config.beta_schedule!r}: only the first timesteps of linear and scaled_linear schedules "
            "can be kept."
        )
    shorter: SchedulerT = type(scheduler).from_config(config, num_train_timesteps=count, beta_end=last)
    return shorter
