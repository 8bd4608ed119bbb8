"""Training of CoSeR: ControlNet and all-in-attention on a frozen Stable Diffusion (paper, section 3.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from ..coser import convert
from ..coser.adapter import CoSeRAdapter
from ..coser.cfw import ControllableFeatureWrapping
from ..coser.cognition import CognitiveEncoder
from ..coser.controlnet import LatentControlNetModel
from ..coser.denoiser import CoSeRControl, CoSeRDenoiser
from ..image.pixels import BICUBIC
from ..pretrained.loading import load_pretrained
from ..sampling.denoiser import StockDenoiser
from ..texts import encode_texts
from .losses import drop_texts, predicted_latents
from .trainable import TrainableDenoiser


class TrainableCoSeR(TrainableDenoiser):
    """The prediction from the degraded crop, what the cognitive encoder sees in it, and a reference.

    The reference is the batch's, a photo of a similar subject. If the batch has no reference, the stock UNet makes one
    from the noisy latents in one step, as the pipeline does when it samples in one step. That is for `AdversarialLoss`
    only, whose noisy latents hold nothing of the target. An adapter without attention to references has none.

    Args:
        base: a Stable Diffusion pipeline, whose models are frozen.
        controlnet, adapter: the models to train.
        cognitive_encoder: the trained cognitive encoder, which is frozen; None for the paper's ablation without
            cognition.
        null_text_ratio: share of samples whose text is left out; the cognitive embedding is always there. The official
            code leaves the text out for whole batches.
        cfw: the CFW decoder to train too, if the loss is computed on decoded pictures. They are decoded with its full
            weight.
    """

    controlnet: LatentControlNetModel
    adapter: CoSeRAdapter
    cognitive_encoder: CognitiveEncoder | None

    def __init__(
        self,
        base: StableDiffusionPipeline,
        controlnet: LatentControlNetModel,
        adapter: CoSeRAdapter,
        cognitive_encoder: CognitiveEncoder | None,
        null_text_ratio: float = 0.5,
        cfw: ControllableFeatureWrapping | None = None,
    ) -> None:
        trained: dict[str, nn.Module] = {"controlnet": controlnet, "adapter": adapter}
        if cfw is not None:
            trained["cfw"] = cfw
        super().__init__(base, trained, {} if cognitive_encoder is None else {"cognitive_encoder": cognitive_encoder})
        self.cognitive_encoder = cognitive_encoder
        self.has_reference = adapter.attends_to_references
        self.cfw = cfw
        _freeze_unread_features(controlnet, adapter)
        adapter.attach(self.unet)
        self.scheduler = DDPMScheduler.from_config(base.scheduler.config)
        self.null_text_ratio = null_text_ratio
        self._enlarge = BICUBIC[adapter.config.bicubic]

    @property
    def denoiser(self) -> CoSeRDenoiser:
        """The noise prediction to fit, with the current models: something may have wrapped them."""
        return CoSeRDenoiser(self.unet, self.controlnet, self.adapter)

    def condition_image(self, batch: dict[str, Any]) -> Tensor:
        """Enlarge the degraded crops with the bicubic filter that the adapter names. See `TrainableDenoiser`."""
        return self._enlarge(batch["degraded"], batch["target"].shape[-2:])

    def decode(self, latents: Tensor, batch: dict[str, Any]) -> Tensor:
        """Decode through the CFW, if there is one. See `TrainableDenoiser.decode`."""
        if self.cfw is None:
            return super().decode(latents, batch)
        with torch.no_grad():
            _, features = self.cfw.encode(self.vae, 2 * self.condition_image(batch) - 1)
        image = self.cfw.decode(self.vae, latents / self.vae.config.scaling_factor, features, weight=1)
        return image.float() / 2 + 0.5

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: dict[str, Any]) -> Tensor:
        """Predict from the degraded crops, their embeddings and their references. See `TrainableDenoiser`."""
        captions = drop_texts(batch["seed"], batch["tags"], self.null_text_ratio)
        with torch.no_grad():
            text = encode_texts(captions, self.tokenizer, self.text_encoder, noisy.device)
            if self.cognitive_encoder is not None:
                text = torch.cat([text, self.cognitive_encoder(batch["degraded"]).embedding.to(text)], dim=1)
            references = [self.reference(noisy, timesteps, text, batch)] if self.has_reference else []
        control = CoSeRControl(self.encode(self.condition_image(batch)), references)
        (prediction,) = self.denoiser.predict(noisy, timesteps, [text], control)
        return prediction

    def reference(self, noisy: Tensor, timesteps: Tensor, text: Tensor, batch: dict[str, Any]) -> Tensor:
        """Encode the batch's references, or make some in one step, `[B, C, h, w]`."""
        if "reference" in batch:
            return self.encode(batch["reference"])
        (prediction,) = StockDenoiser(self.unet).predict(noisy, timesteps, [text])
        return predicted_latents(self.scheduler, prediction.float(), noisy, timesteps)


def load_cfw(path: str) -> ControllableFeatureWrapping:
    """Load a CFW decoder from its own folder, or from the file of StableSR's autoencoder.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ModelFolderError: if the folder is damaged.
        ValueError: if the file holds no CFW.
    """
    if not Path(path).is_dir():
        return convert.load_cfw(path)
    cfw: ControllableFeatureWrapping = load_pretrained(ControllableFeatureWrapping, path)
    return cfw


def _freeze_unread_features(controlnet: LatentControlNetModel, adapter: CoSeRAdapter) -> None:
    """Freeze the convolutions whose residuals no site of the adapter reads.

    Nothing else reads these residuals either: at levels without attention the convolutions get no gradient, which
    distributed data parallelism treats as an error.
    """
    read = {options["control_index"] for options in adapter.sites("unet").values()}
    for index, convolution in enumerate(controlnet.controlnet_down_blocks):
        if index not in read:
            convolution.requires_grad_(False)
