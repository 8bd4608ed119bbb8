"""Training of XPSR: ControlNet, semantic fusion and pixel attention on a frozen Stable Diffusion."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from torch import Tensor

from ..data.seeds import sample_generator
from ..texts import encode_texts
from ..xpsr.adapter import XPSRAdapter
from ..xpsr.constraint import DegradationFreeConstraint, constraint_loss, embed_with_features
from ..xpsr.degradation_prompt import describe_degradation
from ..xpsr.denoiser import XPSRControl, XPSRDenoiser
from .losses import drop_texts
from .trainable import TrainableDenoiser, condition_image

# Natural logarithms of the shorter sides, in pixels, that photos to enlarge may have.
_LOG_SIDES = (math.log(48), math.log(1440))


class TrainableXPSR(TrainableDenoiser):
    """The prediction from the degraded crop, what the photo shows, and how the crop is degraded.

    The high-level prompt is the photo's `tags`, without the pipeline's quality prompt, as in the official code. The
    low-level prompt is measured in the degraded crop (`describe_degradation`): crops are degraded while training, and
    an earlier description of the photo says nothing about that. In the official code both are made beforehand, from
    images that were degraded beforehand; so are those of samples with a `quality` (`CropsWithPrompts`), which is their
    low-level prompt.

    Args:
        base: a Stable Diffusion pipeline, whose models are frozen.
        controlnet, adapter: the models to train; the adapter is attached to the UNet and to the ControlNet.
        constraint: trained with them, for `extra_losses`; or None.
        constraint_weight: weight of each of its terms relative to the denoising loss.
        null_text_ratio: share of samples whose high-level prompt is left out.
        clean_ratio: share of samples that see the clean crop and its low-level prompt instead of the degraded one's;
            those with a `quality` always see the degraded one.
    """

    controlnet: ControlNetModel
    adapter: XPSRAdapter
    constraint: DegradationFreeConstraint

    def __init__(
        self,
        base: StableDiffusionPipeline,
        controlnet: ControlNetModel,
        adapter: XPSRAdapter,
        constraint: DegradationFreeConstraint | None = None,
        constraint_weight: float = 0.05,
        null_text_ratio: float = 0.0,
        clean_ratio: float = 0.0,
    ) -> None:
        trained = {"controlnet": controlnet, "adapter": adapter}
        super().__init__(base, trained if constraint is None else {**trained, "constraint": constraint}, {})
        adapter.attach(self.unet).attach(controlnet)
        self.constraint_weight = constraint_weight
        self.null_text_ratio = null_text_ratio
        self.clean_ratio = clean_ratio
        # What the constraint reads from the last forward.
        self._features: tuple[list[Tensor], list[Tensor]] = ([], [])

    @property
    def denoiser(self) -> XPSRDenoiser:
        """The noise prediction to fit, with the current models: something may have wrapped them."""
        return XPSRDenoiser(self.unet, self.controlnet, self.adapter)

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: dict[str, Any]) -> Tensor:
        """Predict from the degraded crops and both prompts. See `TrainableDenoiser`."""
        condition, low_level_prompts = self.condition(batch)
        controlnet, adapter = self.denoiser.controlnet, self.denoiser.adapter
        prompts = low_level_prompts if adapter.config.fusion == "low" else batch["tags"]
        prompts = drop_texts(batch["seed"], prompts, self.null_text_ratio)
        with torch.no_grad():
            texts = [*prompts, *low_level_prompts]
            high_level, low_level = encode_texts(texts, self.tokenizer, self.text_encoder, noisy.device).chunk(2)
        embedding, pixel_features = embed_with_features(controlnet.controlnet_cond_embedding, condition)
        prepared = [adapter("prepare_low_level", low_level)] if adapter.fuses_semantics else []
        control = XPSRControl(embedding, prepared)
        residuals = self.denoiser.residuals(noisy, timesteps, high_level, control)
        self._features = (pixel_features, residuals)
        return self.denoiser.predict_from(noisy, timesteps, high_level, residuals)

    def condition(self, batch: dict[str, Any]) -> tuple[Tensor, list[str]]:
        """Choose what the ControlNet sees, `[B, 3, H, W]` in [0, 1], and write the low-level prompt for each."""
        enlarged, prompts = condition_image(batch), []
        conditions = []
        qualities = batch.get("quality", [""] * len(enlarged))
        for seed, target, degraded, large, quality in zip(
            batch["seed"], batch["target"], batch["degraded"], enlarged, qualities, strict=True
        ):
            generator = sample_generator(int(seed), "condition")
            is_clean = bool(torch.rand((), generator=generator) < self.clean_ratio) and not quality
            # A crop does not tell the photo's size. It is drawn at random, so that nothing is learnt from it.
            shorter_side = round(math.exp(torch.empty(()).uniform_(*_LOG_SIDES, generator=generator)))
            prompts.append(quality or describe_degradation(target if is_clean else degraded, shorter_side))
            conditions.append(target if is_clean else large)
        return torch.stack(conditions), prompts

    def extra_losses(self, latents: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the losses of the degradation-free constraint, if there is one."""
        if "constraint" not in self._modules:
            return {}
        shown_images, shown_latents = self.constraint(*self._features)
        terms = constraint_loss(shown_images, shown_latents, batch["target"], latents)
        return {"constraint": self.constraint_weight * terms}
