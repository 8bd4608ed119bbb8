"""The step of a one-step model, as a scheduler: what its UNet predicts at one timestep gives the restored latents."""

from __future__ import annotations

from typing import get_args

import torch
from diffusers import ConfigMixin, DDPMScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from ..sampling.closed_form import add_noise, alpha_bar
from .prediction import Prediction, denoise


class OneStepScheduler(SchedulerMixin, ConfigMixin):
    """One step at a fixed timestep, by the formulas of `diffusers_sr.one_step.prediction`.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the noise schedule of the base, as in
            `DDPMScheduler`; by default that of Stable Diffusion.
        timestep: the one that the UNet is told.
        noise_timestep: the one whose noise the latents of the image get first; None for no noise.
        prediction: what the UNet predicts: "residual", or noise, which gives "x0".

    Raises:
        ValueError: if there is no such prediction, or a timestep is not one of the training.
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
        prediction: Prediction = "residual",
    ) -> None:
        if prediction not in get_args(Prediction):
            raise ValueError(f"prediction={prediction!r}, expected one of {list(get_args(Prediction))}.")
        for name, value in (("timestep", timestep), ("noise_timestep", noise_timestep or 0)):
            if not 0 <= value < num_train_timesteps:
                raise ValueError(f"{name}={value}, expected one of the training, from 0 to {num_train_timesteps - 1}.")
        schedule = DDPMScheduler(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas)
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
        """Give the latents that the UNet sees: the image's, with the noise of `noise_timestep` if there is one.

        In GDPO-SR (`GDPOSRTest.forward`) that timestep is later than the UNet's own.
        """
        if self.config.noise_timestep is None:
            return image_latents
        return add_noise(image_latents, noise, alpha_bar(self, self.config.noise_timestep))

    def step(
        self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """Compute the restored latents from the prediction, both `[B, channels, h, w]`."""
        alpha = alpha_bar(self, self.config.timestep)
        restored = denoise(self.config.prediction, sample, model_output, alpha)
        return SchedulerOutput(prev_sample=restored) if return_dict else (restored,)
