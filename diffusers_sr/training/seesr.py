"""Training of SeeSR: ControlNet and representation attention on a frozen Stable Diffusion (paper, section 3.3)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from torch import Tensor

from ..seesr.adapter import SeeSRAdapter
from ..seesr.denoiser import SeeSRControl, SeeSRDenoiser
from ..seesr.pipeline import full_prompts
from ..seesr.tagger import Tagger
from ..texts import encode_texts
from .losses import drop_texts
from .trainable import TrainableDenoiser, condition_image


class TrainableSeeSR(TrainableDenoiser):
    """The prediction from the degraded crop, its representation and the photo's tags.

    Args:
        base: a Stable Diffusion pipeline, whose models are frozen.
        controlnet, adapter: the models to train; the adapter is attached to the UNet and to the ControlNet.
        tagger: the degradation-aware tagger, which is frozen.
        null_text_ratio: share of samples whose tags are left out.
        inference_prompt: whether the prompt is the pipeline's, with the quality prompt after the tags.
    """

    controlnet: ControlNetModel
    adapter: SeeSRAdapter
    tagger: Tagger

    def __init__(
        self,
        base: StableDiffusionPipeline,
        controlnet: ControlNetModel,
        adapter: SeeSRAdapter,
        tagger: Tagger,
        null_text_ratio: float = 0.5,
        inference_prompt: bool = False,
    ) -> None:
        super().__init__(base, {"controlnet": controlnet, "adapter": adapter}, {"tagger": tagger})
        adapter.attach(self.unet).attach(controlnet)
        self.null_text_ratio = null_text_ratio
        self.inference_prompt = inference_prompt

    @property
    def denoiser(self) -> SeeSRDenoiser:
        """The noise prediction to fit, with the current models: something may have wrapped them."""
        return SeeSRDenoiser(self.unet, self.controlnet, self.adapter)

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: dict[str, Any]) -> Tensor:
        """Predict from the degraded crops and their tags. See `TrainableDenoiser`."""
        condition = condition_image(batch)
        captions = drop_texts(batch["seed"], batch["tags"], self.null_text_ratio)
        if self.inference_prompt:
            captions = full_prompts(captions, [""])
        with torch.no_grad():
            text = encode_texts(captions, self.tokenizer, self.text_encoder, noisy.device)
            representation = self.tagger(self.tagger.preprocess(condition)).representation
        control = SeeSRControl(condition, self.denoiser.adapter.prepare(representation=representation))
        (prediction,) = self.denoiser.predict(noisy, timesteps, [text], control)
        return prediction
