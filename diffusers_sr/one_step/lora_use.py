"""Who acts on which LoRA: a call on the model's own sets, and diffusers' functions on those besides them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.utils.torch_utils import unwrap_module

from .lora import LoraSets
from .lora_layers import active_loras, lora_layers, loras_of, replace_module


@contextmanager
def in_use(sets: LoraSets, unet: Any, scale: float | None = None) -> Iterator[None]:
    """Have the sets on the UNet and active inside the `with` block, whatever the UNet was told about LoRAs.

    They are the model itself: `set_adapters` and `disable_lora` are for the LoRAs besides them, and so is the scale
    of a call. After the block these are as they were.

    Args:
        scale: what the weights of the LoRAs besides the sets are multiplied with.
    """
    sets.attach(unet)
    unet = unwrap_module(unet)
    layers = lora_layers(unet).values()
    disabled = [layer for layer in layers if layer.disable_adapters]
    active = active_loras(layers)
    others = [name for name in active if name not in sets.names]
    scales = [(layer.scaling, {**layer.scaling}) for layer in layers] if scale is not None and others else []
    if disabled:
        unet.enable_lora()
        unet.set_adapter(sets.names)
    for scaling, _ in scales:
        scaling.update({name: scale * scaling[name] for name in others if name in scaling})
    try:
        yield
    finally:
        for scaling, before in scales:
            scaling.update(before)
        if disabled:
            unet.set_adapter(active)
            for layer in disabled:
                layer.enable_adapters(False)


@contextmanager
def hidden(sets: LoraSets, unet: Any) -> Iterator[None]:
    """Leave layers that have no LoRA besides the sets off the UNet inside the `with` block."""
    unet = unwrap_module(unet)
    layers = {path: layer for path, layer in lora_layers(unet).items() if loras_of(layer) <= {*sets.names}}
    for path, layer in layers.items():
        replace_module(unet, path, layer.get_base_layer())
    try:
        yield
    finally:
        for path, layer in layers.items():
            replace_module(unet, path, layer)
