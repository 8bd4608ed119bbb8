"""The hosts of an adapter and their sites: the modules where new attention is attached."""

from __future__ import annotations

from typing import Any, TypeAlias

from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

Host: TypeAlias = UNet2DConditionModel | ControlNetModel

_OTHER_HOST = "use the adapter with the base model it was made for, or one of the same shape."


def site_key(site: str) -> str:
    """Give a site's key in a `ModuleDict`, where dots are not allowed: "mid_block__attentions__0"."""
    return site.replace(".", "__")


def check_site(role: str, site: str, module: nn.Module, kind: type[Any]) -> Any:
    """Return the `module` of a host at `site`. Raises ValueError if it is not of the kind the adapter was made for."""
    if not isinstance(module, kind):
        raise ValueError(
            f"{site!r} of the {role} is a {type(module).__name__}, expected a {kind.__name__}: {_OTHER_HOST}"
        )
    return module


def check_site_channels(role: str, site: str, channels: int, expected: int) -> None:
    """Raise ValueError if a site has another number of channels than the adapter was made for."""
    if channels != expected:
        raise ValueError(
            f"{site!r} of the {role} has {channels} channels, but the adapter expects {expected}: {_OTHER_HOST}"
        )


def find_host(model: nn.Module) -> tuple[Host, str]:
    """Return the host without its wrappers, and its role. Raises TypeError if it is not a UNet or a ControlNet."""
    model = unwrap_module(model)
    if isinstance(model, UNet2DConditionModel):
        return model, "unet"
    if isinstance(model, ControlNetModel):
        return model, "controlnet"
    raise TypeError(
        f"An attention adapter attaches to a UNet2DConditionModel or a ControlNetModel, not to a "
        f"{type(model).__name__}: give the model itself, without its wrappers."
    )


def site_module(host: Host, site: str) -> nn.Module:
    """Return the module a host has at `site`. Raises ValueError if there is none."""
    try:
        return host.get_submodule(site)
    except AttributeError:
        raise ValueError(
            f"The adapter has weights for {site!r}, but this {type(host).__name__} has no such module: {_OTHER_HOST}"
        ) from None
