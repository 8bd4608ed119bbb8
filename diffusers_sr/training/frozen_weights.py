"""Frozen weights that take half of the memory while a run lasts."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..attention.float32 import Float32Conv2d


class FrozenWeights:
    """The frozen weights of a module's linear layers and convolutions: as they are, or in bfloat16.

    These are the weights that autocast rounds to bfloat16 in every operation, so that no result changes if they are
    stored so. The main process keeps them as they were, in the CPU's memory, to be saved.

    Args:
        module: what is trained, still on the CPU.
        accelerator: says whether there is autocast to bfloat16.
        dtype: "fp32" to leave them as they are, or "bf16".

    Raises:
        ValueError: if there is no autocast to bfloat16.
    """

    def __init__(self, module: nn.Module, accelerator: Accelerator, dtype: str) -> None:
        self._originals: dict[nn.Parameter, Tensor] = {}
        if dtype == "fp32":
            return
        if accelerator.mixed_precision != "bf16":
            raise ValueError(
                f"--frozen_weights_dtype bf16 needs --mixed_precision bf16, and it is {accelerator.mixed_precision}."
            )
        originals = store_in_bf16(module)
        if accelerator.is_main_process:
            self._originals = originals

    def restore(self) -> None:
        """Put the weights back as they were, on the main process."""
        for parameter, original in self._originals.items():
            parameter.data = original.to(parameter.device)
        self._originals = {}


def store_in_bf16(module: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Store the frozen weights of linear layers and convolutions in bfloat16, and give what they were."""
    originals = {}
    for layer in module.modules():
        if isinstance(layer, nn.Linear | _ConvNd) and not isinstance(layer, Float32Conv2d):
            for parameter in layer.parameters(recurse=False):
                if not parameter.requires_grad and parameter.dtype == torch.float32:
                    originals[parameter] = parameter.data
                    parameter.data = parameter.data.to(torch.bfloat16)
    return originals
