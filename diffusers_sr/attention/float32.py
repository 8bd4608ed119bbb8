"""Layers that compute in float32 also if they, their input or autocast are in half precision, and return float32."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Float32Conv2d(nn.Conv2d):
    """A convolution in float32, for features without a scale of their own: sums of them leave float16's range."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve `[B, C, H, W]`; float64 stays float64."""
        dtype = _wide(input, self.weight)
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.to(dtype)
            return self._conv_forward(input.to(dtype), self.weight.to(dtype), bias)


class Float32GroupNorm(nn.GroupNorm):
    """A group normalisation in float32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise `[B, C, ...]`; float64 stays float64."""
        dtype = _wide(input, self.weight)
        with torch.autocast(input.device.type, enabled=False):
            weight, bias = self.weight.to(dtype), self.bias.to(dtype)
            return F.group_norm(input.to(dtype), self.num_groups, weight, bias, self.eps)


def _wide(input: torch.Tensor, weight: torch.Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(input.dtype, weight.dtype), torch.float32)
