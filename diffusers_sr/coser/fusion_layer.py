"""A fusion layer of CFW: what it adds to the decoder's features at one level."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import nn


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and the outputs of those before it: `x + 0.2 * conv5(...)`."""

    def __init__(self, channels: int, growth_channels: int) -> None:
        super().__init__()
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        self.conv1 = conv(channels, growth_channels)
        self.conv2 = conv(channels + growth_channels, growth_channels)
        self.conv3 = conv(channels + 2 * growth_channels, growth_channels)
        self.conv4 = conv(channels + 3 * growth_channels, growth_channels)
        self.conv5 = conv(channels + 4 * growth_channels, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `[B, channels, h, w]` to the same shape."""
        states = hidden_states
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            states = torch.cat([states, F.leaky_relu(conv(states), 0.2)], dim=1)
        return hidden_states + 0.2 * self.conv5(states)


class RRDB(nn.Module):
    """ESRGAN's residual-in-residual dense block: `x + 0.2 * rdb3(rdb2(rdb1(x)))`."""

    def __init__(self, channels: int, growth_channels: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(channels, growth_channels)
        self.rdb2 = ResidualDenseBlock(channels, growth_channels)
        self.rdb3 = ResidualDenseBlock(channels, growth_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `[B, channels, h, w]` to the same shape."""
        return hidden_states + 0.2 * self.rdb3(self.rdb2(self.rdb1(hidden_states)))


class FusionLayer(nn.Module):
    """The layer that computes what CFW adds to the decoder at one level."""

    def __init__(self, channels: int, num_rrdbs: int, growth_channels: int, norm_num_groups: int) -> None:
        super().__init__()
        resnet = partial(ResnetBlock2D, out_channels=channels, temb_channels=None, groups=norm_num_groups, eps=1e-6)
        self.resnet_in = resnet(in_channels=2 * channels)
        self.rrdbs = nn.ModuleList(RRDB(channels, growth_channels) for _ in range(num_rrdbs))
        self.resnet_out = resnet(in_channels=channels)

    def forward(self, encoder_features: torch.Tensor, decoder_features: torch.Tensor) -> torch.Tensor:
        """Fuse the features of encoder and decoder, each `[B, channels, h, w]`, to the same shape."""
        hidden_states = self.resnet_in(torch.cat([encoder_features, decoder_features], dim=1), temb=None)
        for rrdb in self.rrdbs:
            hidden_states = rrdb(hidden_states)
        return self.resnet_out(hidden_states, temb=None)
