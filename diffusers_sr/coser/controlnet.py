"""CoSeR's ControlNet: a stock one whose condition is latents instead of an image."""

from __future__ import annotations

import functools
from typing import Any

from diffusers import ControlNetModel, ModelMixin, UNet2DConditionModel  # noqa: F401 (a loader is looked up here)
from torch import nn


class LatentControlNetModel(ControlNetModel):
    """A `ControlNetModel` that embeds condition latents `[B, conditioning_channels, h, w]` with one convolution.

    The configuration is the stock one; `conditioning_channels` are the latents', and
    `conditioning_embedding_out_channels` has no meaning. The convolution starts at zero, as the stock embedding ends.
    """

    @functools.wraps(ControlNetModel.__init__)  # type: ignore[misc]  # the configuration is read off the signature
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.controlnet_cond_embedding = nn.Conv2d(
            self.config.conditioning_channels, self.config.block_out_channels[0], kernel_size=3, padding=1
        )
        for parameter in self.controlnet_cond_embedding.parameters():
            nn.init.zeros_(parameter)

    @classmethod
    def for_unet(cls, unet: UNet2DConditionModel) -> LatentControlNetModel:
        """A new ControlNet with the encoder's weights of `unet`, for latents like the UNet's own."""
        controlnet: LatentControlNetModel = cls.from_unet(unet, conditioning_channels=unet.config.in_channels)
        return controlnet
