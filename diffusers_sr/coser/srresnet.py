"""The small super-resolution network through which CoSeR's cognitive encoder looks at its image: SRResNet."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

SCALE = 4
# Side of a tile in pixels of the input: the features of a tile take 16 × 64 channels for each of its pixels.
TILE = 256


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU between them and a residual around them, without normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels)
        self.conv2 = _conv(channels, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `[B, channels, H, W]` to the same shape."""
        return hidden_states + self.conv2(F.relu(self.conv1(hidden_states)))


class SRResNet(nn.Module):
    """SRResNet ×4 without batch normalisation, which adds to a bilinear enlargement (BasicSR's MSRResNet).

    Args:
        channels: channels of the features.
        num_blocks: residual blocks.
    """

    _gradient_checkpointing_func: Callable[..., torch.Tensor]  # set by `ModelMixin.enable_gradient_checkpointing`

    def __init__(self, channels: int = 64, num_blocks: int = 16) -> None:
        super().__init__()
        self.conv_first = _conv(3, channels)
        self.body = nn.ModuleList(ResidualBlock(channels) for _ in range(num_blocks))
        self.upconv1 = _conv(channels, 4 * channels)
        self.upconv2 = _conv(channels, 4 * channels)
        self.conv_hr = _conv(channels, channels)
        self.conv_last = _conv(channels, 3)
        self.gradient_checkpointing = False

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Enlarge `[B, 3, H, W]` in [0, 1], of any size, to `[B, 3, 4 * H, 4 * W]`, which is not clipped.

        A large image is processed in tiles, with as much around each as its pixels depend on: this bounds the memory
        and does not change the result.
        """
        height, width = image.shape[-2:]
        rows = [
            torch.cat([self._tile(image, top, left) for left in range(0, width, TILE)], dim=-1)
            for top in range(0, height, TILE)
        ]
        return torch.cat(rows, dim=-2)

    def _tile(self, image: torch.Tensor, top: int, left: int) -> torch.Tensor:
        # One pixel for each convolution at the input's size; the three at two and four times it share one.
        margin = 2 * len(self.body) + 3
        above, before = min(top, margin), min(left, margin)
        surroundings = image[..., top - above : top + TILE + margin, left - before : left + TILE + margin]
        return self._enlarge(surroundings)[
            ...,
            SCALE * above : SCALE * (above + TILE),
            SCALE * before : SCALE * (before + TILE),
        ]

    def _enlarge(self, image: torch.Tensor) -> torch.Tensor:
        features = _activate(self.conv_first(image))
        for block in self.body:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                features = self._gradient_checkpointing_func(block, features)
            else:
                features = block(features)
        features = _activate(F.pixel_shuffle(self.upconv1(features), 2))
        features = _activate(F.pixel_shuffle(self.upconv2(features), 2))
        residual = self.conv_last(_activate(self.conv_hr(features)))
        return residual + F.interpolate(image, scale_factor=SCALE, mode="bilinear", align_corners=False)


def _activate(features: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(features, 0.1)


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Make a 3×3 convolution with weights of a tenth of the usual size, as in the official code.

    So the whole network starts out close to the bilinear enlargement.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
    nn.init.kaiming_normal_(conv.weight)
    with torch.no_grad():
        conv.weight.mul_(0.1)
    nn.init.zeros_(conv.get_parameter("bias"))
    return conv
