"""Fine-tuning for one-step sampling: the loss is computed on the picture, and a discriminator judges it.

A small denoiser that was trained with the mean squared error predicts, from pure noise, the mean of all pictures that
fit the degraded one, which looks washed out, and further steps accumulate its errors. Trained on the decoded picture
of its only step, against a discriminator, it learns to commit to one of them (adversarial diffusion distillation,
Sauer et al. 2023, without a teacher; OSEDiff, Wu et al. 2024, starts from the degraded image in the same way).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional

from ..sampling.autoencoder import pixels_per_latent
from .arguments import option
from .comparisons import ComparisonArguments, comparisons
from .judgement import Judgement
from .losses import draw_noise, predicted_latents
from .pairs import PairsArguments
from .ranges import Count, Share, Weight
from .schedules import first_timesteps
from .trainable import DenoiserArguments, TrainableDenoiser

ONE_STEP_CALL = {"num_inference_steps": 1, "guidance_scale": 1.0}
"""The arguments for calling a pipeline with models that `AdversarialLoss` trained, and a `one_step_scheduler`."""


@dataclass(kw_only=True)
class AdversarialArguments(DenoiserArguments, PairsArguments, ComparisonArguments):
    """The further options of the one-step trainers."""

    null_text_ratio: Share = option(0.0, "Share of samples whose tags are left out.")
    sharpen_target: bool = option(False, "Train towards USM-sharpened photos.")
    num_train_timesteps: Count | None = option(
        None,
        "Timesteps of the base's schedule to keep: the only step starts at the last of them, from the degraded image "
        "under that much noise. By default all, which leave next to nothing of the image.",
    )
    latent_weight: Weight = option(0.1, "Weight of the latents' absolute error relative to the pixels'.")
    feature_weight: Weight = option(0.1, "Weight of the discriminator features' absolute error.")
    adversarial_weight: Weight = option(0.01, "Weight of the discriminator's judgement.")


class AdversarialLoss(nn.Module):
    """The picture a denoiser makes in one step, from the degraded image under the noise of the last timestep.

    It minimises the mean absolute error of the picture and of the latents, the losses of a `Judgement`, and those of
    the comparisons that are asked for.

    Args:
        denoiser: the model that is trained.
        scheduler: the base model's scheduler.
        latent_weight, feature_weight, adversarial_weight: weights of the denoiser's other losses, relative to that of
            the pixels. Without the last two there is no discriminator.
        comparisons: give further losses, weighted and by name, from the picture and the target [B, 3, H, W] in
            [0, 1].
    """

    def __init__(
        self,
        denoiser: TrainableDenoiser,
        scheduler: DDPMScheduler,
        latent_weight: float,
        feature_weight: float,
        adversarial_weight: float,
        comparisons: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.scheduler = scheduler
        judged = feature_weight or adversarial_weight
        self.judgement = Judgement(feature_weight, adversarial_weight) if judged else None
        self.comparisons = nn.ModuleList(comparisons)
        self.latent_weight = latent_weight

    @classmethod
    def from_arguments(
        cls, denoiser: TrainableDenoiser, scheduler: DDPMScheduler, arguments: AdversarialArguments
    ) -> AdversarialLoss:
        """Make the loss with the weights given on the command line."""
        return cls(
            denoiser,
            scheduler,
            arguments.latent_weight,
            arguments.feature_weight,
            arguments.adversarial_weight,
            comparisons(arguments, pixels_per_latent(denoiser.vae)),
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

        losses = {
            "pixel": functional.l1_loss(picture, target),
            "latent": self.latent_weight * functional.l1_loss(predicted, latents),
        }
        if self.judgement is not None:
            losses |= self.judgement(picture, target)
        for comparison in self.comparisons:
            losses |= comparison(picture, target)
        return losses


def start_scheduler(base: Any, arguments: AdversarialArguments) -> DDPMScheduler:
    """Make the scheduler that the only step starts with, from the base's.

    Raises:
        ValueError: if `first_timesteps` raises it.
    """
    scheduler: DDPMScheduler = DDPMScheduler.from_config(base.config)
    if arguments.num_train_timesteps is None:
        return scheduler
    return first_timesteps(scheduler, arguments.num_train_timesteps)


def one_step_scheduler(scheduler: DDPMScheduler) -> DDPMScheduler:
    """Copy the base's scheduler so that a single step starts from the last timestep of the training."""
    one_step: DDPMScheduler = DDPMScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    return one_step
