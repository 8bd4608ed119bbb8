"""XPSR's degradation-free constraint (paper, section 3.4): what the ControlNet sees has to show the clean image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from diffusers import ConfigMixin, ControlNetModel, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import Tensor, nn
from torch.nn import functional as F

LatentTerms = Literal["paper", "code", "none"]
LATENT_TERMS = ("paper", "code", "none")


class DegradationFreeConstraint(ModelMixin, ConfigMixin):
    """Heads that read images and latents off a ControlNet, for training to compare with the clean ones.

    They are for training alone: the ControlNet's result does not depend on them, and no pipeline has them. Except for
    the prefix `controlnet_cond_embedding.` of the pixel heads, the weights have the official names.

    - Pixel heads (`to_rgbs`) read the embedding of the condition image after each of its strides, and give images of
      1/2, 1/4, … of its size.
    - Latent heads (`conv_degradation`, `conv_degradation_mid`) read the ControlNet's residuals, not multiplied by any
      conditioning scale, and give latents of their size.

    Args:
        pixel_channels: channels of the embedding after each stride; none leaves the pixel heads out.
        residual_channels: channels of the ControlNet's residuals, those of the down blocks and then that of the middle
            block.
        paper_residuals: the numbers of the residuals that "paper" uses.
        latent_channels: channels of the latents.
        latent_terms: which residuals have a head. "code": all, as in the official code, 13 at Stable Diffusion's size.
            "paper": one for each size, as the paper has 3. It does not say which; here they are those at the end of
            each down block with semantic fusion: the features that have seen both prompts, before the next
            downsampling. "none": no residual, as in PASD, which the pixel heads come from; it is the paper's ablation
            with the pixel constraint alone.

    Raises:
        ValueError: if `latent_terms` is not one of these.
    """

    @register_to_config
    def __init__(
        self,
        pixel_channels: Sequence[int],
        residual_channels: Sequence[int],
        paper_residuals: Sequence[int],
        latent_channels: int = 4,
        latent_terms: LatentTerms = "code",
    ) -> None:
        super().__init__()
        if latent_terms not in LATENT_TERMS:
            raise ValueError(f"latent_terms={latent_terms!r}, expected one of {', '.join(map(repr, LATENT_TERMS))}.")

        def head(channels: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(channels, latent_channels, kernel_size=3, padding=1))

        self.to_rgbs = nn.ModuleList(nn.Conv2d(channels, 3, kernel_size=3, padding=1) for channels in pixel_channels)
        *down_channels, middle_channels = residual_channels
        numbers = {"code": range(len(down_channels)), "paper": paper_residuals, "none": ()}[latent_terms]
        self.conv_degradation = nn.ModuleDict({str(number): head(down_channels[number]) for number in numbers})
        self.conv_degradation_mid = head(middle_channels) if latent_terms == "code" else None

    @classmethod
    def from_controlnet(
        cls, controlnet: ControlNetModel, latent_terms: LatentTerms = "code", pixel_terms: bool = True
    ) -> Self:
        """Make new heads for this ControlNet, to be trained.

        Args:
            latent_terms: as in the class.
            pixel_terms: whether there are pixel heads; without them it is the latent constraint alone.
        """
        convs = [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]
        last, paper_residuals = 0, []  # number 0 is that of the input convolution
        for block in controlnet.down_blocks:
            last += len(block.resnets)
            if hasattr(block, "attentions"):
                paper_residuals.append(last)
            last += block.downsamplers is not None
        # diffusers treats arguments given by position as defaults, which are not saved.
        return cls(
            pixel_channels=[
                conv.out_channels
                for conv in filter(_is_strided, controlnet.controlnet_cond_embedding.blocks)
                if pixel_terms
            ],
            residual_channels=[conv.out_channels for conv in convs],
            paper_residuals=paper_residuals,
            latent_channels=controlnet.config.in_channels,
            latent_terms=latent_terms,
        )

    def forward(
        self, pixel_features: Sequence[Tensor], residuals: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Read images and latents off the ControlNet's features.

        Args:
            pixel_features: those of the condition image, from `embed_with_features`; not read without pixel heads.
            residuals: those of the ControlNet called with a `conditioning_scale` of 1, of the down blocks and then of
                the middle block (`diffusers_sr.attention.control_features.control_features`).

        Returns:
            Images `[B, 3, h, w]`, in [-1, 1] once the heads are trained, and scaled latents
            `[B, latent_channels, h, w]`; both in the order of the features they are read off.

        Raises:
            ValueError: if the features are not those of the ControlNet the heads were made for.
        """
        if not self.to_rgbs:
            pixel_features = []
        _check_channels("pixel_features", pixel_features, self.config.pixel_channels)
        _check_channels("residuals", residuals, self.config.residual_channels)
        images = [to_rgb(feature) for to_rgb, feature in zip(self.to_rgbs, pixel_features, strict=True)]
        latents = [head(residuals[int(number)]) for number, head in self.conv_degradation.items()]
        if self.conv_degradation_mid is not None:
            latents.append(self.conv_degradation_mid(residuals[-1]))
        return images, latents


def embed_with_features(embedding: ControlNetConditioningEmbedding, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Compute a ControlNet's embedding of its condition image, with what the pixel heads read on the way.

    A ControlNet with an adapter attached takes the embedding in place of the image, so that nothing is computed twice
    and the only extra cost is that of the heads.

    Args:
        embedding: the ControlNet's `controlnet_cond_embedding`.
        image: `[B, 3, H, W]` in [0, 1].

    Returns:
        The embedding `[B, channels, h, w]`, and the features after each stride of two, `[B, channels, H / 2, W / 2]`
        first.
    """
    hidden_states, features = F.silu(embedding.conv_in(image)), []
    for block in embedding.blocks:
        hidden_states = F.silu(block(hidden_states))
        if _is_strided(block):
            features.append(hidden_states)
    return embedding.conv_out(hidden_states), features


def constraint_loss(
    images: Sequence[Tensor], latents: Sequence[Tensor], target_image: Tensor, target_latents: Tensor
) -> Tensor:
    """Sum the terms of the constraint, each the mean absolute error against the target at that size.

    The official trainer adds 0.05 times this to the denoising loss. As in that trainer, the targets are reduced
    bilinearly, without a low-pass filter.

    Args:
        images, latents: what `DegradationFreeConstraint` returns.
        target_image: the clean image, `[B, 3, H, W]` in [0, 1].
        target_latents: its scaled latents, `[B, channels, h, w]`.
    """
    pairs = [(image, 2 * target_image - 1) for image in images] + [(latent, target_latents) for latent in latents]
    errors = [
        F.l1_loss(seen.float(), F.interpolate(target.float(), seen.shape[-2:], mode="bilinear", align_corners=False))
        for seen, target in pairs
    ]
    return torch.stack(errors).sum()


def _is_strided(conv: nn.Conv2d) -> bool:
    return conv.stride != (1, 1)


def _check_channels(name: str, features: Sequence[Tensor], expected: Sequence[int]) -> None:
    if [feature.shape[1] for feature in features] != list(expected):
        raise ValueError(
            f"`{name}` have shapes {[list(feature.shape) for feature in features]}, but the heads read "
            f"{list(expected)} channels: give those of the ControlNet they were made for, all of them."
        )
