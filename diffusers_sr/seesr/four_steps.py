"""AddSR's sampler: SeeSR's networks, distilled to four steps.

AddSR (arXiv:2404.01717) has SeeSR's parameters under SeeSR's names. What differs is how they are sampled with:
`pipelines/pipeline_addsr.py` and `utils/scheduling_ddpm.py` of the official code. A `SeeSRPipeline` with this
scheduler also refines the condition between the steps (`diffusers_sr.seesr.refinement`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from ..sampling.closed_form import add_noise, alpha_bar, as_fine_as, without_noise

MAX_STEPS = 4


@dataclass
class FourStepOutput(BaseOutput):
    """The result of a step.

    Args:
        prev_sample: the latents of the next step, or after the last one the image's.
        pred_original_sample: the image's latents as far as this step knows them.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class FourStepScheduler(SchedulerMixin, ConfigMixin):
    """Predict the image, give it new noise for the next timestep, and so on: 999, 749, 499, 249.

    Each step solves for the image's latents, (z - √(1 - ᾱ)·ε) / √ᾱ, without clipping them. With fewer steps the last
    of them are left out, which the official code has no option for: its training lets a step begin at any of the
    timesteps, so that what the last one predicts is a result.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the noise schedule of the base, as in
            `DDPMScheduler`; by default that of Stable Diffusion.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        trained_betas: list[float] | None = None,
    ) -> None:
        self._training = DDPMScheduler(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas)
        self.alphas_cumprod = self._training.alphas_cumprod
        self.set_timesteps(MAX_STEPS)

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Take the first timesteps.

        Raises:
            ValueError: if there are not as many.
        """
        check_steps(num_inference_steps)
        last, spacing = self.config.num_train_timesteps - 1, self.config.num_train_timesteps // MAX_STEPS
        self.timesteps = torch.tensor([last - step * spacing for step in range(num_inference_steps)], device=device)

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        """Return the latents as they are."""
        return sample

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Give latents the noise of a timestep: √ᾱ·z + √(1 - ᾱ)·n."""
        (timestep,) = {int(each) for each in timesteps}
        return add_noise(original_samples, noise, alpha_bar(self, timestep))

    def predict_original(
        self, model_output: torch.Tensor, timestep: torch.Tensor | int, sample: torch.Tensor
    ) -> torch.Tensor:
        """Solve for the image's latents, with roots of ᾱ as fine as the latents (the official `get_z0`)."""
        return without_noise(sample, model_output, as_fine_as(sample, alpha_bar(self, int(timestep))))

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | int,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> FourStepOutput | tuple[torch.Tensor, torch.Tensor]:
        """Compute the image's latents and the latents of the next timestep.

        Args:
            generator: draws the new noise.
            noise: the new noise, if it was drawn already.
        """
        original = self.predict_original(model_output, timestep, sample)
        following = self.timesteps[self.timesteps < int(timestep)]
        result = original
        if len(following):
            if noise is None:
                noise = randn_tensor(original.shape, generator=generator, device=original.device, dtype=original.dtype)
            result = self.add_noise(original, noise, following[:1])
        return FourStepOutput(result, original) if return_dict else (result, original)


def check_steps(num_inference_steps: int) -> None:
    """Raise ValueError unless AddSR has as many timesteps."""
    if not 1 <= num_inference_steps <= MAX_STEPS:
        raise ValueError(
            f"num_inference_steps={num_inference_steps}, but AddSR was trained for {MAX_STEPS} timesteps: choose 1 to "
            f"{MAX_STEPS}."
        )
