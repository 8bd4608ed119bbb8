"""The step of a one-step model, as a scheduler: what its UNet predicts at one timestep gives the restored latents."""

from __future__ import annotations

from typing import Literal

import torch
from diffusers import ConfigMixin, DDPMScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput

Formula = Literal["residual", "x0"]
FORMULAS = ("residual", "x0")


class OneStepScheduler(SchedulerMixin, ConfigMixin):
    """One step at a fixed timestep, in closed form.

    With `z` for the latents that the UNet sees and `e` for what it predicts, the result is

    - `z - e` for "residual" (PiSA-SR's code: the prediction is the difference between the latents),
    - `(z - sqrt(1 - a_t) * e) / sqrt(a_t)` for "x0", where `a_t` is the schedule's cumulative product at `timestep`
      (OSEDiff, GDPO-SR, OMGSR and HYPIR; a step of the `DDPMScheduler` of their day gives the same).

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the noise schedule of the base, as in
            `DDPMScheduler`; by default that of Stable Diffusion.
        timestep: the one that the UNet is told.
        noise_timestep: the one whose noise the latents of the image get first; None for no noise.
        formula: "residual" or "x0".

    Raises:
        ValueError: if there is no such formula, or a timestep is not one of the training.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        trained_betas: list[float] | None = None,
        timestep: int = 1,
        noise_timestep: int | None = None,
        formula: Formula = "residual",
    ) -> None:
        if formula not in FORMULAS:
            raise ValueError(f"formula={formula!r}, expected one of {', '.join(map(repr, FORMULAS))}.")
        for name, value in (("timestep", timestep), ("noise_timestep", noise_timestep or 0)):
            if not 0 <= value < num_train_timesteps:
                raise ValueError(f"{name}={value}, expected one of the training, from 0 to {num_train_timesteps - 1}.")
        schedule = DDPMScheduler(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas)  # type: ignore[arg-type]
        self.alphas_cumprod = schedule.alphas_cumprod
        self.init_noise_sigma = 1.0
        self.timesteps = torch.tensor([timestep])

    def set_timesteps(self, num_inference_steps: int = 1, device: torch.device | str | None = None) -> None:
        """Put the timestep on a device. Raises ValueError if more than one step is asked for."""
        if num_inference_steps != 1:
            raise ValueError(f"num_inference_steps={num_inference_steps}, but a one-step model takes one.")
        self.timesteps = torch.tensor([self.config.timestep], device=device)

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        """Return the latents as they are."""
        return sample

    def start(self, image_latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Give the latents that the UNet sees: the image's, with the noise of `noise_timestep` if there is one."""
        if self.config.noise_timestep is None:
            return image_latents
        signal, deviation = self._levels(self.config.noise_timestep, image_latents)
        return signal * image_latents + deviation * noise

    def step(
        self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """Compute the restored latents from the prediction, both `[B, channels, h, w]`."""
        if self.config.formula == "residual":
            restored = sample - model_output
        else:
            signal, deviation = self._levels(self.config.timestep, sample)
            restored = (sample - deviation * model_output) / signal
        return SchedulerOutput(prev_sample=restored) if return_dict else (restored,)

    def _levels(self, timestep: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read `sqrt(a_t)` and `sqrt(1 - a_t)`."""
        level = self.alphas_cumprod[timestep].to(like.device, like.dtype)
        return level.sqrt(), (1 - level).sqrt()
