"""The layers of a UNet that have LoRAs, PEFT's."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def lora_layers(unet: nn.Module) -> dict[str, Any]:
    """List the layers that have LoRAs, by their paths."""
    return {path: module for path, module in unet.named_modules() if isinstance(module, BaseTunerLayer)}


def loras_of(module: nn.Module) -> set[str]:
    """Give the names of a layer's LoRAs."""
    return {*module._all_available_adapter_names()} if isinstance(module, BaseTunerLayer) else set()


def active_loras(unet: nn.Module) -> list[str]:
    """List the LoRAs that are active in any layer that has them."""
    active = (
        name for layer in lora_layers(unet).values() for name in layer.active_adapters if name in loras_of(layer)
    )
    return list(dict.fromkeys(active))


def replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put another module in a module's place."""
    parent, _, child = path.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
