"""The parts that the denoising trainers share: random draws that depend on the sample only, and the denoising loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ..data.seeds import sample_generator
from .trainable import TrainableDenoiser


def draw_noise(seeds: Tensor, shape: Sequence[int], device: torch.device, purpose: str = "noise") -> Tensor:
    """Draw standard normal noise [B, *shape], float32, for each sample from its own seed, other for each purpose."""
    generators = [sample_generator(int(seed), purpose) for seed in seeds]
    return randn_tensor((len(seeds), *shape), generator=generators, device=device)


def draw_timesteps(seeds: Tensor, end: int, device: torch.device, start: int = 0, purpose: str = "timestep") -> Tensor:
    """Draw uniform timesteps [B] in start .. end - 1, for each sample from its own seed, others for each purpose."""
    generators = [sample_generator(int(seed), purpose) for seed in seeds]
    return torch.stack([torch.randint(start, end, (), generator=g) for g in generators]).to(device)


def drop_texts(seeds: Tensor, texts: Sequence[str], ratio: float) -> list[str]:
    """Replace a share of `ratio` of the texts by empty ones, each chosen by its sample's own seed."""
    chances = [torch.rand((), generator=sample_generator(int(seed), "text")) for seed in seeds]
    return ["" if chance < ratio else text for chance, text in zip(chances, texts, strict=True)]


def drops_texts(seeds: Tensor, ratio: float) -> bool:
    """Whether a batch is one of the share of `ratio` that is trained without texts, by its first sample's seed."""
    return bool(torch.rand((), generator=sample_generator(int(seeds[0]), "text")) < ratio)


def predicted_latents(scheduler: DDPMScheduler, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Compute the clean latents that the network's output [B, C, h, w] at `timesteps` [B] stands for.

    Raises:
        ValueError: if the prediction type is neither epsilon nor v_prediction.
    """
    alphas_cumprod = scheduler.alphas_cumprod.to(noisy.device)[timesteps][:, None, None, None]
    signal, noise = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    if _prediction_type(scheduler) == "epsilon":
        return (noisy - noise * prediction) / signal
    return signal * noisy - noise * prediction


def denoising_loss(
    scheduler: DDPMScheduler, prediction: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Compute the mean squared error of the network's output against what the scheduler says it predicts.

    Raises:
        ValueError: if the prediction type is neither epsilon nor v_prediction.
    """
    target = noise
    if _prediction_type(scheduler) == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    return nn.functional.mse_loss(prediction.float(), target.float())


class DenoisingLoss(nn.Module):
    """The training objective of Stable Diffusion, with a method's denoiser: noise on the target's latents."""

    def __init__(self, denoiser: TrainableDenoiser, scheduler: DDPMScheduler) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.scheduler = scheduler

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the losses of a batch by name: the mean squared error, and those that the method adds."""
        seeds = batch["seed"]
        latents = self.denoiser.encode(batch["target"])
        noise = draw_noise(seeds, latents.shape[1:], latents.device)
        timesteps = draw_timesteps(seeds, self.scheduler.config.num_train_timesteps, latents.device)
        prediction = self.denoiser(self.scheduler.add_noise(latents, noise, timesteps), timesteps, batch)
        loss = denoising_loss(self.scheduler, prediction, latents, noise, timesteps)
        return {"mse": loss, **self.denoiser.extra_losses(latents, batch)}


def _prediction_type(scheduler: DDPMScheduler) -> str:
    kind: str = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"prediction_type is {kind!r}; training knows 'epsilon' and 'v_prediction'.")
    return kind
