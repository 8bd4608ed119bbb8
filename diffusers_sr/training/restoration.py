"""A small Stable Diffusion to train from scratch, which may learn to restore photographs by itself."""

from __future__ import annotations

from typing import Any

from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from ..sampling.denoiser import StockDenoiser
from ..texts import encode_texts
from .adversarial import AdversarialLoss
from .losses import DenoisingLoss, drop_texts, drops_texts
from .trainable import TrainableDenoiser


class TrainableBase(TrainableDenoiser):
    """UNet and text encoder of a Stable Diffusion, without anything added; both are trained.

    Args:
        base: the pipeline.
        null_text_ratio: share of samples whose caption is left out.
    """

    def __init__(self, base: StableDiffusionPipeline, null_text_ratio: float) -> None:
        super().__init__(base, {}, {})
        self.unet.requires_grad_(True)
        self.text_encoder.requires_grad_(True)
        self.null_text_ratio = null_text_ratio

    def train(self, mode: bool = True) -> TrainableBase:
        """Set the mode of what is trained. See `TrainableDenoiser`."""
        super().train(mode)
        self.text_encoder.train(mode)
        return self

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: dict[str, Any]) -> Tensor:
        """Predict from the captions. See `TrainableDenoiser`."""
        captions = drop_texts(batch["seed"], batch["tags"], self.null_text_ratio)
        text = encode_texts(captions, self.tokenizer, self.text_encoder, noisy.device)
        (prediction,) = StockDenoiser(self.unet).predict(noisy, timesteps, [text])
        return prediction


class BaseLoss(nn.Module):
    """The loss of denoising photographs given their captions and, for a share of the batches, of restoring them.

    A full Stable Diffusion knows so much of photographs that a ControlNet beside it, which is frozen, can make it
    restore one. A small one has to be taught: at the last of its schedule's first timesteps it sees the latents of the
    degraded photo under a little noise, and its single step should give the photo.

    Args:
        denoiser: the model that is trained.
        scheduler: the base's.
        restoration: the loss of restoring, of the same denoiser; or None.
        restoration_ratio: share of batches that are restored.
    """

    def __init__(
        self,
        denoiser: TrainableBase,
        scheduler: DDPMScheduler,
        restoration: AdversarialLoss | None = None,
        restoration_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        self.denoising = DenoisingLoss(denoiser, scheduler)
        self.restoration = restoration
        self.restoration_ratio = restoration_ratio

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the weighted losses of a batch by name."""
        if self.restoration is not None and drops_texts(batch["seed"], self.restoration_ratio):
            losses: dict[str, Tensor] = self.restoration(batch)
        else:
            losses = self.denoising(batch)
        return losses
