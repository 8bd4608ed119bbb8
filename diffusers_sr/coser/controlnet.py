"""CoSeR's ControlNet: a stock one whose condition is latents instead of an image."""

from __future__ import annotations

import functools
from typing import Any

from diffusers import ControlNetModel, ModelMixin, UNet2DConditionModel  # noqa: F401 (a loader is looked up here)
from torch import nn

from ..attention.float32 import Float32Conv2d


class LatentControlNetModel(ControlNetModel):
    """A `ControlNetModel` that embeds condition latents `[B, conditioning_channels, h, w]` with one convolution.

    The configuration is the stock one; `conditioning_channels` are the latents', and
    `conditioning_embedding_out_channels` has no effect.

    What the UNet gets starts from zero in the adapter, which normalises these residuals first. So the convolutions
    that make them need not start from zero, and in `for_unet` they do not. (In the official code they do; what is
    normalised is then zero everywhere, and the first steps can learn nothing about the image.)
    """

    @functools.wraps(ControlNetModel.__init__)  # type: ignore[misc]  # the configuration is read off the signature
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.controlnet_cond_embedding = nn.Conv2d(
            self.config.conditioning_channels, self.config.block_out_channels[0], kernel_size=3, padding=1
        )
        # Nothing keeps the residuals small, as they are not added to anything: trained ones fill float16's range.
        down: Any = self.get_submodule("controlnet_down_blocks")
        middle: Any = self.get_submodule("controlnet_mid_block")
        self.controlnet_down_blocks = nn.ModuleList(map(_float32_conv, down))
        self.controlnet_mid_block = _float32_conv(middle)

    @classmethod
    def for_unet(cls, unet: UNet2DConditionModel) -> LatentControlNetModel:
        """Make a ControlNet to train, with the weights of the encoder of `unet`, for latents like the UNet's own."""
        controlnet: LatentControlNetModel = cls.from_unet(unet, conditioning_channels=unet.config.in_channels)
        for conv in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
            conv.reset_parameters()
        return controlnet


def _float32_conv(conv: nn.Conv2d) -> Float32Conv2d:
    """Make the same 1×1 convolution, with the same parameters, in float32."""
    wide = Float32Conv2d(conv.in_channels, conv.out_channels, kernel_size=1, device="meta")
    wide.weight, wide.bias = conv.weight, conv.bias
    return wide
