"""What CoSeR trains: ControlNet and all-in-attention on a frozen Stable Diffusion (paper, section 3.4)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from ..attention.control_features import control_features
from ..coser.adapter import CoSeRAdapter
from ..coser.cfw import ControllableFeatureWrapping
from ..coser.cognition import CognitiveEncoder
from ..coser.controlnet import LatentControlNetModel
from ..texts import encode_texts
from .denoiser import Denoiser, condition_image
from .losses import drop_texts, predicted_latents


class CoSeRDenoiser(Denoiser):
    """Predicts from the degraded crop, what the cognitive encoder sees in it, and a reference.

    The reference is the batch's, a photo of the like; in a batch without, it is what the stock UNet makes of the noisy
    latents in one step, as the pipeline generates it when it samples in one step. That is for `AdversarialLoss` only,
    whose noisy latents hold nothing of the target.

    Args:
        base: Stable Diffusion, frozen.
        controlnet, adapter: trained.
        cognitive_encoder: frozen.
        null_text_ratio: share of samples whose text is left out; the cognitive embedding is always there. The official
            code leaves it out for whole batches.
        cfw: trained, if the loss is on decoded pictures. They are decoded with its full weight.
    """

    controlnet: LatentControlNetModel
    adapter: CoSeRAdapter
    cognitive_encoder: CognitiveEncoder

    def __init__(
        self,
        base: StableDiffusionPipeline,
        controlnet: LatentControlNetModel,
        adapter: CoSeRAdapter,
        cognitive_encoder: CognitiveEncoder,
        null_text_ratio: float = 0.5,
        cfw: ControllableFeatureWrapping | None = None,
    ) -> None:
        trained: dict[str, nn.Module] = {"controlnet": controlnet, "adapter": adapter}
        if cfw is not None:
            trained["cfw"] = cfw
        super().__init__(base, trained, {"cognitive_encoder": cognitive_encoder})
        self.cfw = cfw
        _freeze_unread_features(controlnet, adapter)
        adapter.attach(self.unet)
        self.scheduler = DDPMScheduler.from_config(base.scheduler.config)
        self.null_text_ratio = null_text_ratio

    def decode(self, latents: Tensor, batch: dict[str, Any]) -> Tensor:
        if self.cfw is None:
            return super().decode(latents, batch)
        with torch.no_grad():
            _, features = self.cfw.encode(self.vae, 2 * condition_image(batch) - 1)
        image = self.cfw.decode(self.vae, latents / self.vae.config.scaling_factor, features, weight=1)
        return image.float() / 2 + 0.5

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: dict[str, Any]) -> Tensor:
        self.adapter.clear_conditioning()
        captions = drop_texts(batch["seed"], batch["tags"], self.null_text_ratio)
        with torch.no_grad():
            words = encode_texts(captions, self.tokenizer, self.text_encoder, noisy.device)
            text = torch.cat([words, self.cognitive_encoder(batch["degraded"]).embedding.to(words)], dim=1)
            if "reference" in batch:
                reference = self.encode(batch["reference"])
            else:
                prediction = self.unet(noisy, timesteps, text).sample
                reference = predicted_latents(self.scheduler, prediction.float(), noisy, timesteps)
        lr = self.encode(condition_image(batch))
        # It stays in place until the next step: gradient checkpointing reads it again in the backward pass.
        self.adapter.set_conditioning(
            lr=control_features(self.controlnet, noisy, timesteps, text, lr),
            reference=control_features(self.controlnet, noisy, timesteps, text, reference),
        )
        noise: Tensor = self.unet(noisy, timesteps, text).sample
        return noise


def _freeze_unread_features(controlnet: LatentControlNetModel, adapter: CoSeRAdapter) -> None:
    """Freeze what makes those residuals of the ControlNet that no site of the adapter reads.

    Nothing else reads them either: at levels without attention they get no gradient, which distributed data
    parallelism takes for an error.
    """
    read = {options["control_index"] for options in adapter.sites("unet").values()}
    for index, convolution in enumerate(controlnet.controlnet_down_blocks):
        if index not in read:
            convolution.requires_grad_(False)
