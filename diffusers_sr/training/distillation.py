"""What a frozen Stable Diffusion teaches a one-step model about its latents: score distillation."""

from __future__ import annotations

import copy

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from ..one_step.stored_prompt import StoredPrompt
from ..sampling.denoiser import StockDenoiser, in_one_batch
from .losses import denoising_loss, draw_noise, draw_timesteps, predicted_latents


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

    @classmethod
    def from_base(cls, base: StableDiffusionPipeline, negative_prompt: str, guidance_scale: float) -> GuidedTeacher:
        """Make the teacher of a base that is trained itself: with a copy of its UNet."""
        return cls(
            copy.deepcopy(base.unet),
            StoredPrompt.from_text(base.tokenizer, base.text_encoder, negative_prompt),
            DDPMScheduler.from_config(base.scheduler.config),
            guidance_scale,
        )

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


class VariationalScoreDistillation(nn.Module):
    """Variational score distillation (VSD, arXiv:2305.16213), as OSEDiff uses it: `OSEDiff_reg` of its code.

    The latents get noise of a random timestep. What the teacher predicts with guidance, less what a second UNet
    predicts, says how the latents of photos differ from those that are restored: the second one, the regulariser,
    learns all the while to denoise the restored ones. One sum serves both, as neither loss has a gradient in the
    other's parameters.

    Args:
        teacher: the frozen Stable Diffusion.
        regulariser: a UNet, part of which is trained.
        weight: that of the loss of the latents.
        regulariser_weight: that of the regulariser's own loss.
    """

    TIMESTEPS = (20, 980)

    def __init__(
        self,
        teacher: GuidedTeacher,
        regulariser: UNet2DConditionModel,
        weight: float = 1.0,
        regulariser_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.regulariser = regulariser
        self.weight = weight
        self.regulariser_weight = regulariser_weight

    def forward(self, latents: Tensor, text: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """Compute the losses by name. See `ClassifierScoreDistillation`."""
        scheduler = self.teacher.scheduler
        start, end = self.TIMESTEPS
        timesteps = draw_timesteps(seeds, end, latents.device, start, purpose="distillation timestep")
        noise = draw_noise(seeds, latents.shape[1:], latents.device, purpose="distillation noise")
        noisy = scheduler.add_noise(latents.detach(), noise, timesteps)
        _, real = self.teacher(noisy, timesteps, text)
        with torch.no_grad():
            fake = predicted_latents(scheduler, self._predict(noisy, timesteps, text).float(), noisy, timesteps)
        loss = distillation_loss(latents, distillation_gradient(latents.detach(), fake, real))

        timesteps = draw_timesteps(seeds, scheduler.config.num_train_timesteps, latents.device)
        noise = draw_noise(seeds, latents.shape[1:], latents.device)
        prediction = self._predict(scheduler.add_noise(latents.detach(), noise, timesteps), timesteps, text)
        own = denoising_loss(scheduler, prediction, latents.detach(), noise, timesteps)
        return {"vsd": self.weight * loss, "regulariser": self.regulariser_weight * own}

    def _predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        (prediction,) = StockDenoiser(self.regulariser).predict(noisy, timesteps, [text])
        return prediction
