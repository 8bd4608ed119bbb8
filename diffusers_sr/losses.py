"""What the denoising trainers have in common: random draws that follow the sample, and the denoising loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from .data.dataset import sample_generator


def draw_noise(seeds: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """Standard normal noise [B, *shape], float32; each sample's from its own seed."""
    generators = [sample_generator(int(seed), "noise") for seed in seeds]
    return randn_tensor((len(seeds), *shape), generator=generators, device=device)


def draw_timesteps(seeds: Tensor, num_train_timesteps: int, device: torch.device) -> Tensor:
    """Uniform timesteps [B] in 0 .. num_train_timesteps - 1; each sample's from its own seed."""
    generators = [sample_generator(int(seed), "timestep") for seed in seeds]
    return torch.stack([torch.randint(num_train_timesteps, (), generator=g) for g in generators]).to(device)


def drop_texts(seeds: Tensor, texts: Sequence[str], ratio: float) -> list[str]:
    """The texts with a share of `ratio` replaced by empty ones; each sample's chance from its own seed."""
    chances = [torch.rand((), generator=sample_generator(int(seed), "text")) for seed in seeds]
    return ["" if chance < ratio else text for chance, text in zip(chances, texts, strict=True)]


def denoising_loss(
    scheduler: DDPMScheduler, prediction: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Mean squared error of the network's output against what the scheduler says it predicts.

    Raises:
        ValueError: for a prediction type other than epsilon and v_prediction.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        target = noise
    elif kind == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    else:
        raise ValueError(f"prediction_type is {kind!r}; training knows 'epsilon' and 'v_prediction'.")
    return nn.functional.mse_loss(prediction.float(), target.float())
