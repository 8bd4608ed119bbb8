"""Training of CasSR: first the activation, then ControlNet and multiple attention on references that it made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers import ControlNetModel, DDPMScheduler, StableDiffusionPipeline
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..cassr.activation import SCEditAdapter
from ..cassr.adapter import CasSRAdapter
from ..cassr.denoiser import ActivationDenoiser, ActivationModel, CasSRControl, CasSRDenoiser, is_scedit
from ..cassr.pipeline import GENERAL_PROMPT
from ..sampling.guidance import Guidance
from ..sampling.loop import sample
from ..texts import encode_texts
from .losses import draw_noise, drop_texts, predicted_latents
from .trainable import TrainableDenoiser, condition_image, controlnet_to_train

ACTIVATIONS: dict[str, type[ActivationModel]] = {"scedit": SCEditAdapter, "controlnet": ControlNetModel}
"""The models that make a reference, by their names in the paper's Table 2; its third one is "lr", without a model."""


def start_controlnet(base: StableDiffusionPipeline, path: str | None) -> ControlNetModel:
    """Make the ControlNet that stage 2 starts from: a new one, or one at `path`, trained on one image, at half weight.

    Its residuals are halved because those for the image and for the reference, which show the same, are added up.

    Args:
        base: Stable Diffusion.
        path: folder or Hub id of a ControlNet for the base, or None.
    """
    controlnet = controlnet_to_train(base, path)
    for residual in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        for parameter in residual.parameters():
            parameter.data /= 2  # a new one has zeros here
    return controlnet


class _PromptedDenoiser(TrainableDenoiser):
    """The part that both stages share: the general prompt, which is left out for a share of the samples."""

    def __init__(
        self,
        base: StableDiffusionPipeline,
        trained: Mapping[str, nn.Module],
        frozen: Mapping[str, nn.Module],
        null_text_ratio: float,
    ) -> None:
        super().__init__(base, trained, frozen)
        self.null_text_ratio = null_text_ratio

    @torch.no_grad()
    def encode_prompts(self, batch: dict[str, Any]) -> Tensor:
        """Encode the general prompt, or an empty one, for each sample, `[B, tokens, channels]`."""
        prompts = drop_texts(batch["seed"], [GENERAL_PROMPT] * len(batch["seed"]), self.null_text_ratio)
        return encode_texts(prompts, self.tokenizer, self.text_encoder, batch["seed"].device)


def activation_inputs(activation: ActivationModel, condition: Tensor) -> list[Tensor]:
    """Compute what `ActivationDenoiser` takes of enlarged images; a ControlNet takes them as they are."""
    return activation.embed(condition) if is_scedit(activation) else [condition]


class TrainableSCEdit(_PromptedDenoiser):
    """Stage 1: the prediction from the degraded crop, through the skip connections, or through a ControlNet.

    Args:
        base: a Stable Diffusion pipeline, whose models are frozen.
        activation: the activation to train: SCEdit's adapter, or a ControlNet (paper, Table 2).
        null_text_ratio: share of samples without the prompt.
    """

    activation: ActivationModel

    def __init__(
        self, base: StableDiffusionPipeline, activation: ActivationModel, null_text_ratio: float = 0.1
    ) -> None:
        super().__init__(base, {"activation": activation}, {}, null_text_ratio)
        if is_scedit(activation):
            activation.attach(self.unet)

    @property
    def denoiser(self) -> ActivationDenoiser:
        """The noise prediction to fit, with the current models: something may have wrapped them."""
        return ActivationDenoiser(self.unet, self.activation)

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: dict[str, Any]) -> Tensor:
        """Predict from the degraded crops. See `TrainableDenoiser`."""
        inputs = activation_inputs(self.activation, condition_image(batch))
        (prediction,) = self.denoiser.predict(noisy, timesteps, [self.encode_prompts(batch)], inputs)
        return prediction

    @torch.no_grad()
    def sample(self, batch: dict[str, Any], scheduler: Any, num_inference_steps: int, guidance_scale: float) -> Tensor:
        """Sample activated images [B, 3, H, W] in [0, 1] of degraded crops, as `CasSRPipeline` makes them.

        Each follows from its sample's seed, whatever else is in the batch.

        Args:
            scheduler: a diffusers scheduler; one that draws noise in its steps draws it from the global generator.
            num_inference_steps: denoising steps.
            guidance_scale: weight of the general prompt; at 1 or below there is no guidance.
        """
        condition = condition_image(batch)
        texts = encode_texts([GENERAL_PROMPT, ""], self.tokenizer, self.text_encoder, condition.device)
        prompt, negative = (text.expand(len(condition), -1, -1) for text in texts.split(1))
        guidance = Guidance(prompt, negative, guidance_scale)
        latents = self.encode(condition)
        last = torch.full_like(batch["seed"], scheduler.config.num_train_timesteps - 1)
        latents = scheduler.add_noise(latents, draw_noise(batch["seed"], latents.shape[1:], latents.device), last)
        scheduler.set_timesteps(num_inference_steps, device=latents.device)
        inputs = activation_inputs(self.activation, condition)

        def predict_noise(noisy: Tensor, timestep: Tensor) -> Tensor:
            return guidance.combine(self.denoiser.predict(noisy, timestep, guidance.texts, inputs))

        latents = sample(predict_noise, latents, scheduler, progress_bar=partial(tqdm, disable=True))
        return self.decode(latents, batch).clamp(0, 1)


class TrainableCasSR(_PromptedDenoiser):
    """Stage 2: the prediction from the degraded crop and its reference.

    The reference is the batch's, made beforehand by the activation. If the batch has no reference, the activation
    makes one from the noisy latents in one step, as the pipeline does when it samples in one step. That is for
    `AdversarialLoss` only, whose noisy latents hold nothing of the target.

    Args:
        base: a Stable Diffusion pipeline, whose models are frozen.
        controlnet, adapter: the models to train.
        activation: the trained activation, which is frozen; None if the enlarged crop is its own reference, "LR" in
            the paper's Table 2.
        null_text_ratio: share of samples without the prompt.
    """

    controlnet: ControlNetModel
    adapter: CasSRAdapter
    activation: ActivationModel | None

    def __init__(
        self,
        base: StableDiffusionPipeline,
        controlnet: ControlNetModel,
        adapter: CasSRAdapter,
        activation: ActivationModel | None,
        null_text_ratio: float = 0.1,
    ) -> None:
        frozen = {} if activation is None else {"activation": activation}
        super().__init__(base, {"controlnet": controlnet, "adapter": adapter}, frozen, null_text_ratio)
        self.activation = activation
        adapter.attach(self.unet).attach(controlnet)
        if is_scedit(activation):
            activation.attach(self.unet)
        self.scheduler = DDPMScheduler.from_config(base.scheduler.config)

    @property
    def denoiser(self) -> CasSRDenoiser:
        """The noise prediction to fit, with the current models: something may have wrapped them."""
        return CasSRDenoiser(self.unet, self.controlnet, self.adapter)

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: dict[str, Any]) -> Tensor:
        """Predict from the degraded crops and their references. See `TrainableDenoiser`."""
        text, condition = self.encode_prompts(batch), condition_image(batch)
        if self.activation is None:
            reference = condition
        elif "reference" in batch:
            reference = batch["reference"]
        else:
            reference = self.activate(self.activation, noisy, timesteps, text, batch)
        control = CasSRControl(condition, reference)
        (prediction,) = self.denoiser.predict(noisy, timesteps, [text], control)
        return prediction

    @torch.no_grad()
    def activate(
        self, activation: ActivationModel, noisy: Tensor, timesteps: Tensor, text: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        """Make the reference [B, 3, H, W] in [0, 1] with the activation, in one step."""
        inputs = activation_inputs(activation, condition_image(batch))
        (prediction,) = ActivationDenoiser(self.unet, activation).predict(noisy, timesteps, [text], inputs)
        latents = predicted_latents(self.scheduler, prediction.float(), noisy, timesteps)
        return self.decode(latents, batch).clamp(0, 1)
