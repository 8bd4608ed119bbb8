"""Training with `torch.compile`."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention import BasicTransformerBlock
from torch import nn


def compile_transformers(module: nn.Module, **options: Any) -> None:
    """Compile all transformer blocks of UNets and ControlNets in a module, in place: names of weights stay.

    Blocks are alike, so that few have to be compiled; and what is around them, such as the recomputation of their
    activations, goes on as before.

    Args:
        module: holds the networks.
        options: those of `torch.compile`.
    """
    for block in module.modules():
        if isinstance(block, BasicTransformerBlock):
            block.compile(**options)
