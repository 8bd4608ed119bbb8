"""What a frozen Stable Diffusion teaches a one-step model about its latents: classifier score distillation."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from ..one_step.stored_prompt import StoredPrompt
from ..sampling.denoiser import StockDenoiser, in_one_batch
from .losses import draw_noise, draw_timesteps, predicted_latents


def distillation_gradient(latents: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """Compute the gradient that moves latents from `fake` towards `real`, all [B, C, h, w].

    It is (fake - real) / mean|latents - real|, with the mean of each sample: its size does not depend on how much
    noise there was.
    """
    return (fake - real) / (latents - real).abs().mean((1, 2, 3), keepdim=True)


def distillation_loss(latents: Tensor, gradient: Tensor) -> Tensor:
    """Compute the mean squared distance of the latents from where a step along the gradient, itself fixed, leads."""
    return nn.functional.mse_loss(latents, (latents - gradient).detach())


class GuidedTeacher(nn.Module):
    """A frozen Stable Diffusion that says with guidance what noisy latents were.

    Args:
        unet: its UNet, which is frozen.
        negative_prompt: what the guidance leads away from.
        scheduler: the noise schedule of its training.
        guidance_scale: that of classifier-free guidance.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        negative_prompt: StoredPrompt,
        scheduler: DDPMScheduler,
        guidance_scale: float,
    ) -> None:
        super().__init__()
        self.unet = unet.requires_grad_(False)
        self.negative_prompt = negative_prompt
        self.scheduler = scheduler
        self.guidance_scale = guidance_scale

    def train(self, mode: bool = True) -> GuidedTeacher:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the clean latents, [B, C, h, w], from the negative prompt alone, and with guidance to the text."""
        negative = self.negative_prompt.embedding.expand(len(text), -1, -1)
        latents, texts = in_one_batch(noisy, [negative, text])
        (output,) = StockDenoiser(self.unet).predict(latents, timesteps.repeat(2), [texts])
        away, towards = output.float().chunk(2)
        guided = away + self.guidance_scale * (towards - away)
        unguided, led = (predicted_latents(self.scheduler, each, noisy, timesteps) for each in (away, guided))
        return unguided, led


class ClassifierScoreDistillation(nn.Module):
    """Classifier score distillation (CSD, arXiv:2310.19415), as PiSA-SR uses it: `CSDLoss` of its code.

    The latents get noise of a random timestep. What the teacher predicts with guidance, less what it predicts from the
    negative prompt, says which way the classifier that is in it would move them.

    Args:
        teacher: the frozen Stable Diffusion.
        timesteps: the first one that is drawn, and the one after the last.
        weight: that of the loss.
    """

    def __init__(self, teacher: GuidedTeacher, timesteps: tuple[int, int] = (20, 500), weight: float = 1.0) -> None:
        super().__init__()
        self.teacher = teacher
        self.timesteps = timesteps
        self.weight = weight

    def forward(self, latents: Tensor, text: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """Compute the loss by name.

        Args:
            latents: what the one-step model restored, [B, C, h, w].
            text: embeddings of what the photos show, [B, tokens, channels].
            seeds: of the samples, [B].
        """
        start, end = self.timesteps
        timesteps = draw_timesteps(seeds, end, latents.device, start, purpose="distillation timestep")
        noise = draw_noise(seeds, latents.shape[1:], latents.device, purpose="distillation noise")
        noisy = self.teacher.scheduler.add_noise(latents.detach(), noise, timesteps)
        unguided, guided = self.teacher(noisy, timesteps, text)
        gradient = distillation_gradient(latents.detach(), unguided, guided)
        return {"csd": self.weight * distillation_loss(latents, gradient)}
