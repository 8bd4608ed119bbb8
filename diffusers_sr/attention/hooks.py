"""Put hooks on the modules of a host and remove them; and the hook for a ControlNet's condition image."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import HookFunctionReference
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import nn

from .sites import Host

CONDITION_EMBEDDING = "condition_embedding"


class ConditionEmbeddingHook(ModelHook):
    """A hook that lets a ControlNet take an embedded condition image as `controlnet_cond`.

    The embedding of the condition image (the convolutions before the first block) is the same at every step and in
    both halves of classifier-free guidance. With this hook it can be computed once, by calling
    `controlnet.controlnet_cond_embedding(image)`, and passed in place of the image: an input that already has
    the channels of an embedding passes through unchanged.
    """

    def new_forward(self, module: ControlNetConditioningEmbedding, conditioning: torch.Tensor) -> torch.Tensor:
        """Embed an image, or return an embedding as it is."""
        if conditioning.shape[1] == module.conv_out.out_channels != module.conv_in.in_channels:
            return conditioning
        embedding: torch.Tensor = self.fn_ref.original_forward(conditioning)
        return embedding


def embeds_image(host: Host) -> bool:
    """Whether this is a ControlNet whose condition is an image rather than latents."""
    return isinstance(getattr(host, "controlnet_cond_embedding", None), ControlNetConditioningEmbedding)


def has_condition_hook(host: Host) -> bool:
    """Whether the host's embedding of the condition image has its hook."""
    embedding = getattr(host, "controlnet_cond_embedding", None)
    registry = getattr(embedding, "_diffusers_hook", None)
    return registry is not None and registry.get_hook(CONDITION_EMBEDDING) is not None


def _run_hooked(reference: HookFunctionReference, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    args, kwargs = reference.pre_forward(module, *args, **kwargs)
    return reference.post_forward(module, reference.forward(*args, **kwargs))


def register(module: nn.Module, hook: ModelHook, name: str) -> None:
    """Put a hook on a module, so that a copy of the module has a copy of the hook."""
    HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, name)
    # The registry's wrapper holds `fn_ref` in a closure, which `copy.deepcopy` does not follow: a copy of the module
    # would silently run the forward, and so the weights, of the original. As an argument of a partial it is copied.
    forward = hook.fn_ref.original_forward or hook.fn_ref.forward
    module.forward = functools.update_wrapper(functools.partial(_run_hooked, hook.fn_ref, module), forward)


def remove(module: nn.Module, name: str) -> None:
    """Remove a hook from a module, and with the last hook every trace of them."""
    registry: Any = module._diffusers_hook
    registry.remove_hook(name, recurse=False)
    if not registry.hooks:
        del module._diffusers_hook
        # What is left in the instance is the class's own method, unless something else had wrapped it before us.
        if getattr(module.forward, "__func__", None) is type(module).forward:
            del module.forward
