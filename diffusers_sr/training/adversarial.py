"""Fine-tuning for one-step sampling: the loss is computed on the picture, and a discriminator judges it.

A small denoiser that was trained with the mean squared error predicts, from pure noise, the mean of all pictures that
fit the degraded one, which looks washed out, and further steps accumulate its errors. Trained on the decoded picture
of its only step, against a discriminator, it learns to commit to one of them (adversarial diffusion distillation,
Sauer et al. 2023, without a teacher; OSEDiff, Wu et al. 2024, starts from the degraded image in the same way).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional

from .arguments import option
from .judgement import Judgement
from .losses import draw_noise, predicted_latents
from .ranges import Share, Weight
from .trainable import DenoiserArguments, TrainableDenoiser

ONE_STEP_CALL = {"num_inference_steps": 1, "guidance_scale": 1.0}
"""The arguments for calling a pipeline with models that `AdversarialLoss` trained, and a `one_step_scheduler`."""


@dataclass(kw_only=True)
class AdversarialArguments(DenoiserArguments):
    """The further options of the one-step trainers."""

    null_text_ratio: Share = option(0.0, "Share of samples whose tags are left out.")
    sharpen_target: bool = option(False, "Train towards USM-sharpened photos.")
    latent_weight: Weight = option(0.1, "Weight of the latents' absolute error relative to the pixels'.")
    feature_weight: Weight = option(0.1, "Weight of the discriminator features' absolute error.")
    adversarial_weight: Weight = option(0.01, "Weight of the discriminator's judgement.")


class AdversarialLoss(nn.Module):
    """The picture a denoiser makes in one step, from the degraded image under the noise of the last timestep.

    It minimises the mean absolute error of the picture and of the latents, and the losses of a `Judgement`.

    Args:
        denoiser: the model that is trained.
        scheduler: the base model's scheduler.
        latent_weight, feature_weight, adversarial_weight: weights of the denoiser's other losses, relative to that of
            the pixels.
    """

    def __init__(
        self,
        denoiser: TrainableDenoiser,
        scheduler: DDPMScheduler,
        latent_weight: float,
        feature_weight: float,
        adversarial_weight: float,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.scheduler = scheduler
        self.judgement = Judgement(feature_weight, adversarial_weight)
        self.latent_weight = latent_weight

    @classmethod
    def from_arguments(
        cls, denoiser: TrainableDenoiser, scheduler: DDPMScheduler, arguments: AdversarialArguments
    ) -> AdversarialLoss:
        """Make the loss with the weights given on the command line."""
        return cls(
            denoiser, scheduler, arguments.latent_weight, arguments.feature_weight, arguments.adversarial_weight
        )

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the weighted losses of a batch by name, the discriminator's among them."""
        target = batch["target"]
        latents = self.denoiser.encode(target)
        noise = draw_noise(batch["seed"], latents.shape[1:], target.device)
        timesteps = torch.full_like(batch["seed"], self.scheduler.config.num_train_timesteps - 1)
        noisy = self.scheduler.add_noise(self.denoiser.encode(self.denoiser.condition_image(batch)), noise, timesteps)
        prediction = self.denoiser(noisy, timesteps, batch)
        predicted = predicted_latents(self.scheduler, prediction.float(), noisy, timesteps)
        picture = self.denoiser.decode(predicted, batch)

        return {
            "pixel": functional.l1_loss(picture, target),
            "latent": self.latent_weight * functional.l1_loss(predicted, latents),
            **self.judgement(picture, target),
        }


def one_step_scheduler(scheduler: DDPMScheduler) -> DDPMScheduler:
    """Copy the base's scheduler so that a single step starts from the last timestep of the training."""
    one_step: DDPMScheduler = DDPMScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    return one_step
