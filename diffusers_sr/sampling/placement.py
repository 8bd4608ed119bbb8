"""Where models are and in which type, as diffusers says it, but read faster.

The properties of diffusers look for hooks in every module, several times, and through an exception in each that has
none. That takes tens of milliseconds where LoRA layers make thousands of modules, and is done several times in a call.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from diffusers.hooks import group_offloading, layerwise_casting
from torch import nn

IN_GROUPS = group_offloading._GROUP_OFFLOADING
CASTING = layerwise_casting._LAYERWISE_CASTING_HOOK


class Placement:
    """The part of a pipeline that says where its models compute, and in which type the sampling does."""

    unet: Any
    components: dict[str, Any]

    @property
    def _execution_device(self) -> torch.device:
        models = [model for model in self.components.values() if isinstance(model, nn.Module)]
        if any("_hf_hook" in vars(model) or has_hook(model, IN_GROUPS) for model in models):  # offloaded
            device: torch.device = super()._execution_device  # type: ignore[misc]
            return device
        devices = [next(chain(model.parameters(), model.buffers())).device for model in models]
        return next((device for device in devices if device.type not in ("cpu", "meta")), devices[0])

    @property
    def sampling_dtype(self) -> torch.dtype:
        """The type of noise, latents and the scheduler's arithmetic: float32 for models in half precision too.

        Sums over the steps need it, and the noise of a seed is then the same whatever the models' type.
        """
        return torch.float64 if _weight_dtype(self.unet) == torch.float64 else torch.float32


def model_dtype(model: Any) -> torch.dtype:
    """Read the type of a model's weights, `model.dtype`."""
    if has_hook(model, CASTING) or getattr(model, "_keep_in_fp32_modules", None):
        dtype: torch.dtype = model.dtype
        return dtype
    return _weight_dtype(model)


def _weight_dtype(model: nn.Module) -> torch.dtype:
    return next(each.dtype for each in chain(model.parameters(), model.buffers()) if each.is_floating_point())


def has_hook(model: nn.Module, name: str) -> bool:
    """Whether a module of a model has diffusers' hook of a name; those of an adapter have names of their own."""
    modules: list[nn.Module | None] = [model]
    for module in modules:  # which grows
        if module is None:
            continue
        registry = vars(module).get("_diffusers_hook")
        if registry is not None and registry.get_hook(name) is not None:
            return True
        if module._modules:
            modules.extend(module._modules.values())
    return False
