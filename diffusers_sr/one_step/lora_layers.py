"""The layers of a UNet that have LoRAs, PEFT's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def lora_layers(unet: nn.Module) -> dict[str, Any]:
    """List the layers that have LoRAs, by their paths."""
    layers: dict[str, Any] = {}
    waiting = [("", unet)]
    while waiting:
        path, module = waiting.pop()
        for name, child in module.named_children():
            if isinstance(child, BaseTunerLayer):  # whose own modules, of which there are many, have none
                layers[path + name] = child
            else:
                waiting.append((f"{path}{name}.", child))
    return layers


def loras_of(module: nn.Module) -> set[str]:
    """Give the names of a layer's LoRAs."""
    return {*module._all_available_adapter_names()} if isinstance(module, BaseTunerLayer) else set()


def active_loras(layers: Iterable[Any]) -> list[str]:
    """List the LoRAs that are active in any layer that has them."""
    active: dict[str, None] = {}
    for layer in layers:
        active |= {name: None for name in layer.active_adapters if name not in active and name in loras_of(layer)}
    return list(active)


def replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put another module in a module's place."""
    parent, _, child = path.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
