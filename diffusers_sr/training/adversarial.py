"""Fine-tuning for one-step sampling: the loss is computed on the picture, and a discriminator judges it.

A small denoiser that was trained with the mean squared error predicts, from pure noise, the mean of all pictures that
fit the degraded one, which looks washed out, and further steps accumulate its errors. Trained on the decoded picture
of its only step, against a discriminator, it learns to commit to one of them (adversarial diffusion distillation,
Sauer et al. 2023, without a teacher; OSEDiff, Wu et al. 2024, starts from the degraded image in the same way).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional

from ..pipeline import SuperResolutionPipeline
from .arguments import option
from .losses import draw_noise, predicted_latents
from .ranges import Share, Weight
from .trainable import DenoiserArguments, TrainableDenoiser
from .validation import Enlarge, enlarge_with

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


class PatchDiscriminator(nn.Module):
    """A scorer of overlapping patches: high for photographs, low for generated ones (PatchGAN, Isola et al. 2017).

    Args:
        channels: channels of the levels; all except the first halve the size.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        levels: list[nn.Module] = [nn.Conv2d(3, channels[0], 3, padding=1)]
        for previous, width in pairwise(channels):
            levels.append(
                nn.Sequential(
                    nn.Conv2d(previous, width, 4, stride=2, padding=1, bias=False), nn.GroupNorm(width // 16, width)
                )
            )
        self.levels = nn.ModuleList(levels)
        self.score = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Compute scores [B, 1, h, w] of `image` [B, 3, H, W] in [0, 1], and the features of every level."""
        features = []
        hidden = image * 2 - 1
        for level in self.levels:
            hidden = functional.leaky_relu(level(hidden), 0.2)
            features.append(hidden)
        return self.score(hidden), features


class AdversarialLoss(nn.Module):
    """The picture a denoiser makes in one step, from the degraded image under the noise of the last timestep.

    It minimises the mean absolute error of the picture, of the latents and of the discriminator's features (Wang et
    al. 2018), and the discriminator's hinge loss. One sum serves both sides: the denoiser's part sees the
    discriminator with its weights frozen, the discriminator's part sees the picture without its gradient.

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
        self.discriminator = PatchDiscriminator()
        self.latent_weight = latent_weight
        self.feature_weight = feature_weight
        self.adversarial_weight = adversarial_weight

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

        made, _ = self.discriminator(picture.detach())
        real, real_features = self.discriminator(target)
        target_features = [feature.detach() for feature in real_features]
        self.discriminator.requires_grad_(False)
        score, features = self.discriminator(picture)
        self.discriminator.requires_grad_(True)
        return {
            "pixel": functional.l1_loss(picture, target),
            "latent": self.latent_weight * functional.l1_loss(predicted, latents),
            "feature": self.feature_weight * sum(map(functional.l1_loss, features, target_features)),
            "adversarial": -self.adversarial_weight * score.float().mean(),
            "discriminator": functional.relu(1 - real).float().mean() + functional.relu(1 + made).float().mean(),
        }


def one_step_scheduler(scheduler: DDPMScheduler) -> DDPMScheduler:
    """Copy the base's scheduler so that a single step starts from the last timestep of the training."""
    one_step: DDPMScheduler = DDPMScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    return one_step


def enlarge_in_one_step(
    pipeline_class: type[SuperResolutionPipeline], denoiser: TrainableDenoiser, scheduler: DDPMScheduler, **call: Any
) -> Enlarge:
    """Call `enlarge_with` as `AdversarialLoss` trains: in one step from the last timestep, and without guidance."""
    return enlarge_with(pipeline_class, denoiser, one_step_scheduler(scheduler), **ONE_STEP_CALL, **call)
