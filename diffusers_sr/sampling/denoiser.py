"""The noise prediction of a stock UNet and ControlNet with an attention adapter on both, tile by tile."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from ..attention.adapter import AttentionAdapter
from ..attention.processors import repeat_to_batch
from ..image.tiling import Window, crop_tiles


class Denoiser(ABC):
    """A paper's noise prediction. The pipeline samples with it, and the trainer fits it.

    The `control` it predicts from is the method's own: a tuple of what is seen in the image. The order of a batch is
    [tile, image], with the image as the faster index, and in models that take both halves of the guidance at once
    [half, tile, image].

    Args:
        unet: stock Stable Diffusion's.
        cross_attention_kwargs: passed to the UNet.
    """

    def __init__(self, unet: UNet2DConditionModel, cross_attention_kwargs: dict[str, Any] | None = None) -> None:
        self.unet = unet
        self.cross_attention_kwargs = cross_attention_kwargs

    @property
    def models(self) -> list[nn.Module]:
        """The models that it runs."""
        return [value for value in vars(self).values() if isinstance(value, nn.Module)]

    @abstractmethod
    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, texts: Sequence[torch.Tensor], control: Any
    ) -> Sequence[torch.Tensor]:
        """Predict the noise in latents, once for each text.

        Args:
            latents: `[tiles * B, channels, h, w]`, scaled for the model.
            timestep: one for all latents, or `[tiles * B]`.
            texts: embeddings `[B, tokens, channels]` of the prompt, or of the negative prompt and the prompt.
            control: of these tiles, as `control_tiles` gives it.

        Returns:
            A prediction of the base's `prediction_type`, `[tiles * B, channels, h, w]`, for each text.
        """

    def control_tiles(
        self, control: Any, num_results: int, groups: Sequence[Sequence[Window]], unit: int
    ) -> list[Any]:
        """Cut the control into groups of tiles, and compute everything that is the same at every step.

        Args:
            control: of the whole image.
            num_results: `B`, the latents that are sampled.
            groups: the tiles that are predicted together, in latents.
            unit: pixels per latent.
        """
        return [control] * len(groups)

    def run_unet(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        text: torch.Tensor,
        residuals: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Run the UNet, with the residuals of a ControlNet for these latents, or for a part that they repeat."""
        down, middle = None, None
        if residuals is not None:
            *down, middle = (repeat_to_batch(residual, len(latents)) for residual in residuals)
        prediction: torch.Tensor = self.unet(
            latents,
            timestep,
            encoder_hidden_states=text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            cross_attention_kwargs=self.cross_attention_kwargs,
            return_dict=False,
        )[0]
        return prediction


class ControlledDenoiser(Denoiser):
    """The base class of the methods' denoisers: a UNet and a ControlNet, with an adapter attached to both.

    Args:
        controlnet: sees what the method shows it.
        adapter: the method's new attention.
        controlnet_conditioning_scale: weight of the ControlNet's residuals.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        adapter: AttentionAdapter,
        controlnet_conditioning_scale: float = 1.0,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(unet, cross_attention_kwargs)
        self.controlnet = controlnet
        self.adapter = adapter
        self.controlnet_conditioning_scale = controlnet_conditioning_scale

    def control_tiles(
        self, control: Any, num_results: int, groups: Sequence[Sequence[Window]], unit: int
    ) -> list[Any]:
        """Embed the `image` of the control; all tiles share the rest."""
        embedded = self.embed_image(control.image, num_results, groups, unit)
        return [control._replace(image=embedding) for embedding in embedded]

    def embed_image(
        self, image: torch.Tensor, num_results: int, groups: Sequence[Sequence[Window]], unit: int
    ) -> list[torch.Tensor]:
        """Compute the ControlNet's embedding of a condition image `[images, 3, H, W]`, which enters its first block.

        Returns:
            An embedding `[tiles * num_results, channels, h, w]` for each group of tiles.
        """
        tiles = embed_tiles(lambda tile: [embed_condition(self.controlnet, tile)], image, num_results, groups, unit)
        return [embedding for (embedding,) in tiles]


class StockDenoiser(Denoiser):
    """Stable Diffusion alone, one call for each text: their numbers of tokens may differ."""

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, texts: Sequence[torch.Tensor], control: None = None
    ) -> list[torch.Tensor]:
        """Predict the noise with one call of the UNet for each text."""
        return [self.run_unet(latents, timestep, repeat_to_batch(text, len(latents))) for text in texts]


def in_one_batch(latents: torch.Tensor, texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeat latents and texts for one call of a model that takes both halves of the guidance."""
    return latents.repeat(len(texts), 1, 1, 1), torch.cat([repeat_to_batch(text, len(latents)) for text in texts])


def embed_tiles(
    embed: Callable[[torch.Tensor], Sequence[torch.Tensor]],
    image: torch.Tensor,
    num_results: int,
    groups: Sequence[Sequence[Window]],
    unit: int,
) -> list[list[torch.Tensor]]:
    """Apply `embed`, which returns all that a model reads of an image, to the tiles of `image`, `[images, 3, H, W]`.

    Returns:
        For each group what `embed` returns for its tiles, `[tiles * num_results, channels, h, w]` each.
    """
    copies = num_results // len(image)
    tiles = (crop_tiles(image, group, unit) for group in groups)
    return [[one.repeat_interleave(copies, dim=0) for one in embed(tile)] for tile in tiles]


@apply_forward_hook
def embed_condition(controlnet: ControlNetModel, image: torch.Tensor) -> torch.Tensor:
    """Compute the ControlNet's embedding of the condition image, which enters its first block, `[B, channels, h, w]`.

    As this is not the ControlNet's `forward`, it has to handle offloading itself: the decorator brings a ControlNet
    under `enable_model_cpu_offload` to its device; one under group offloading is used where its weights are.
    """
    embedding = controlnet.controlnet_cond_embedding
    weight = embedding.conv_in.weight
    device = image.device if weight.is_meta else weight.device
    result: torch.Tensor = embedding(image.to(device, controlnet.dtype)).to(image.device)
    return result
