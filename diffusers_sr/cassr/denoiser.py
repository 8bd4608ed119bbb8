"""CasSR's noise prediction: of the activation (paper, stage 1), and of the result (stage 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.utils.torch_utils import unwrap_module

from ..attention.control_features import control_features
from ..attention.processors import repeat_to_batch
from ..image.tiling import Window
from ..sampling.denoiser import ControlledDenoiser, Denoiser, embed_condition, embed_tiles, in_one_batch
from .activation import SCEditAdapter

ActivationModel: TypeAlias = SCEditAdapter | ControlNetModel


class CasSRControl(NamedTuple):
    """The inputs of the ControlNet: images `[images or B, 3, H, W]` in [0, 1], or its embeddings of their tiles.

    The `reference` is None if its weight, `reference_scale`, is 0.
    """

    lr: torch.Tensor
    reference: torch.Tensor | None
    reference_scale: float = 1.0


class CasSRDenoiser(ControlledDenoiser):
    """The UNet gets the weighted residuals of the image and of its reference, and attends to each separately.

    The ControlNet takes both images in one call, with the positive text; its features serve both halves of the
    guidance. The weight of the image is `controlnet_conditioning_scale`; if both weights are 0, the UNet computes what
    the stock one does.
    """

    def control_tiles(
        self, control: CasSRControl, num_results: int, groups: Sequence[Sequence[Window]], unit: int
    ) -> list[CasSRControl]:
        """Embed the tiles of the image and of its reference for the ControlNet."""
        tiling = (num_results, groups, unit)
        lr = self.embed_image(control.lr, *tiling)
        reference = [None] * len(lr) if control.reference is None else self.embed_image(control.reference, *tiling)
        return [CasSRControl(*tiles, control.reference_scale) for tiles in zip(lr, reference, strict=True)]

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, texts: Sequence[torch.Tensor], control: CasSRControl
    ) -> Sequence[torch.Tensor]:
        """Predict the noise with the ControlNet's features of the image and of its reference."""
        both, text = in_one_batch(latents, texts)
        weights = {"lr": self.controlnet_conditioning_scale, "reference": control.reference_scale}
        weights = {name: weight for name, weight in weights.items() if weight != 0}
        if not weights:
            return self.run_unet(both, timestep, text).chunk(len(texts))
        features = control_features(
            self.controlnet,
            latents.repeat(len(weights), 1, 1, 1),
            timestep.repeat(len(weights)) if timestep.ndim else timestep,
            repeat_to_batch(texts[-1], len(weights) * len(latents)),
            torch.cat([getattr(control, name) for name in weights]),
        )
        each = [feature.chunk(len(weights)) for feature in features]
        seen = {name: [parts[index] for parts in each] for index, name in enumerate(weights)}
        # A weight of 1, as in training, needs no copy.
        scaled = [
            seen[name] if weight == 1 else [weight * feature for feature in seen[name]]
            for name, weight in weights.items()
        ]
        residuals = [sum(rest, first) for first, *rest in zip(*scaled, strict=True)]
        with self.adapter.conditioning(**seen, **{f"{name}_scale": weight for name, weight in weights.items()}):
            return self.run_unet(both, timestep, text, residuals).chunk(len(texts))


class ActivationDenoiser(Denoiser):
    """Stock Stable Diffusion, steered by the image through SCEdit's tuners or through a ControlNet.

    The `control` is a list: it holds the images the model sees, `[images, 3, H, W]` in [0, 1], or the model's
    embeddings of their tiles.

    Args:
        activation: an `SCEditAdapter` that is attached to the UNet, or a ControlNet, which is run as diffusers' own
            pipeline runs it: with the texts of both halves of the guidance.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        activation: ActivationModel,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(unet, cross_attention_kwargs)
        self.activation = activation

    def control_tiles(
        self, control: list[torch.Tensor], num_results: int, groups: Sequence[Sequence[Window]], unit: int
    ) -> list[list[torch.Tensor]]:
        """Embed the tiles of the image, as dense hints or as a ControlNet's condition."""

        def embed(tile: torch.Tensor) -> list[torch.Tensor]:
            if is_scedit(self.activation):
                return self.activation.embed(tile)
            return [embed_condition(self.activation, tile)]

        (image,) = control
        return embed_tiles(embed, image, num_results, groups, unit)

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, texts: Sequence[torch.Tensor], control: list[torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        """Predict the noise with the UNet, steered by the image."""
        latents, text = in_one_batch(latents, texts)
        if is_scedit(self.activation):
            with self.activation.conditioning(hints=control):
                return self.run_unet(latents, timestep, text).chunk(len(texts))
        condition = control[0].repeat(len(texts), 1, 1, 1)
        residuals = control_features(self.activation, latents, timestep, text, condition)
        return self.run_unet(latents, timestep, text, residuals).chunk(len(texts))


def is_activation_model(activation: Any) -> TypeGuard[ActivationModel]:
    """Whether this is a model that steers the sampling of a reference, and not a function or "lr"."""
    return isinstance(unwrap_module(activation), (SCEditAdapter, ControlNetModel))


def is_scedit(model: Any) -> TypeGuard[SCEditAdapter]:
    """Whether this is SCEdit's adapter."""
    return isinstance(unwrap_module(model), SCEditAdapter)
