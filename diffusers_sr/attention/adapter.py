"""`AttentionAdapter`: new attention for a stock UNet and ControlNet, without a new weight in either of them.

The adapter owns every new weight. On the host (a `UNet2DConditionModel` or a `ControlNetModel`) it leaves only model
hooks of `diffusers.hooks`, which are plain objects: the host's state dict stays stock, and so do its saved
checkpoints, its LoRA and its processors.
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.hooks import ModelHook
from torch import nn

from .hooks import CONDITION_EMBEDDING, ConditionEmbeddingHook, embeds_image, has_condition_hook, register, remove
from .sites import find_host, site_module

Result = TypeVar("Result")

_attachments = itertools.count()


class AdapterHook(ModelHook):
    """The hook that an adapter leaves at one site of a host.

    A subclass overrides `pre_forward` or `post_forward`. It computes with the adapter's weights only through
    `self.adapter(...)`, and while the adapter has no conditioning it returns what it was given.

    A deep copy of a hooked module is attached to the same adapter, unless that adapter was copied before it in the
    same `copy.deepcopy`; then it is attached to the copy. If the adapter is copied after it, in the same
    `copy.deepcopy`, it is attached to the copy from then on.
    """

    def __init__(self, adapter: AttentionAdapter, role: str, site: str) -> None:
        super().__init__()
        self.adapter = adapter
        self.role = role
        self.site = site

    def __deepcopy__(self, memo: dict[int, Any]) -> AdapterHook:
        copied = copy.copy(self)
        memo[id(self)] = copied
        copied.adapter = memo.get(id(self.adapter), self.adapter)
        copied.fn_ref = copy.deepcopy(self.fn_ref, memo)
        return copied


class HiddenStatesHook(AdapterHook):
    """A hook that replaces the hidden states a transformer block is given with the output of the adapter's `branch`.

    The branch is called with the site and the hidden states.
    """

    def __init__(self, adapter: AttentionAdapter, role: str, site: str, branch: str) -> None:
        super().__init__(adapter, role, site)
        self.branch = branch

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace the hidden states, unless the adapter has no conditioning."""
        if not self.adapter.is_conditioned:
            return args, kwargs
        if args:
            return (self.adapter(self.branch, self.site, args[0]), *args[1:]), kwargs
        hidden_states = self.adapter(self.branch, self.site, kwargs["hidden_states"])
        return args, {**kwargs, "hidden_states": hidden_states}


class AttentionAdapter(ModelMixin, ConfigMixin):
    """The base class of the adapters: where they attach, and what they are conditioned on.

    Its configuration holds `unet_sites` and `controlnet_sites`: dictionaries that map the name of a module of the host
    ("mid_block.attentions.0") to the options needed to build the adapter's part for it. A subclass builds its weights
    from them, and implements `prepare_conditioning` and `site_hook`.

    While its adapter has no conditioning, a host computes bit for bit what it computes without one. So leave the
    adapter attached (attaching and detaching it around every call would make `torch.compile` recompile every time) and
    scope only the conditioning::

        adapter.attach(unet).attach(controlnet)
        with adapter.conditioning(representation=representation):
            ...  # the sampling loop
        adapter.detach()

    Several adapters may be attached to one host, and one adapter to several hosts.
    """

    _supports_gradient_checkpointing = True
    _gradient_checkpointing_func: Callable[..., Any]  # set by `ModelMixin.enable_gradient_checkpointing`

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self._conditioning: Any = None
        self._hosts: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        if not self.sites("unet") and not self.sites("controlnet"):
            # An ablation without the new attention: diffusers reads a model's type and device off a tensor, and saves
            # no file if there is none.
            self.register_buffer("without_weights", torch.empty(0))

    def attach(self, model: nn.Module) -> Self:
        """Put this adapter's hooks on a UNet or a ControlNet, compiled or not. Sites that have them are skipped.

        Raises:
            TypeError: if `model` is neither a `UNet2DConditionModel` nor a `ControlNetModel`.
            ValueError: if a site of this adapter is missing in `model` or has another shape there, or if `model` is a
                ControlNet whose condition image is not in RGB order; nothing is attached then.
        """
        host, role = find_host(model)
        hooks = {site: self.site_hook(role, site, site_module(host, site)) for site in self.sites(role)}
        if embeds_image(host) and host.config.controlnet_conditioning_channel_order != "rgb":
            raise ValueError(
                "The ControlNet's `controlnet_conditioning_channel_order` is "
                f"{host.config.controlnet_conditioning_channel_order!r}, but only with 'rgb' can it take a "
                "condition image that is embedded once for all steps: re-order the input channels of "
                "`controlnet_cond_embedding.conv_in` and set the configuration to 'rgb'."
            )
        name = f"{type(self).__name__}_{next(_attachments)}"
        for site, hook in hooks.items():
            module = host.get_submodule(site)
            if self._hook_names(module):
                continue
            register(module, hook, name)
        if embeds_image(host) and not has_condition_hook(host):
            register(host.controlnet_cond_embedding, ConditionEmbeddingHook(), CONDITION_EMBEDDING)
        self._hosts.add(host)
        return self

    def detach(self, model: nn.Module | None = None) -> Self:
        """Remove this adapter's hooks without leaving a trace: the exact inverse of `attach`.

        Args:
            model: the host to detach from. By default every host this adapter was attached to by `attach`; a deep
                copy of such a host is not among them and has to be given.
        """
        hosts: list[Any] = list(self._hosts) if model is None else [find_host(model)[0]]
        for host in hosts:
            for module in list(host.modules()):
                for name in self._hook_names(module):
                    remove(module, name)
            if has_condition_hook(host) and not any(_adapter_hooks(module) for module in host.modules()):
                remove(host.get_submodule("controlnet_cond_embedding"), CONDITION_EMBEDDING)
            self._hosts.discard(host)
        return self

    def is_attached(self, model: nn.Module) -> bool:
        """Whether every site of this adapter in `model` has its hook. It is read from `model`, not remembered."""
        host, role = find_host(model)
        modules = dict(host.named_modules())
        return (not embeds_image(host) or has_condition_hook(host)) and all(
            site in modules and self._hook_names(modules[site]) for site in self.sites(role)
        )

    def prepare(self, **inputs: Any) -> Any:
        """Compute from `inputs` what is the same at every step; `prepare_conditioning` says what they are.

        Gradients flow through the result, which can be passed to `conditioned` any number of times.
        """
        return self("prepare_conditioning", **inputs)

    def set_conditioning(self, **inputs: Any) -> None:
        """Condition every attached host on `inputs`, which are those of `prepare`, until this is called again."""
        self._conditioning = self.prepare(**inputs)

    def clear_conditioning(self) -> None:
        """Make every attached host compute what it computes without an adapter."""
        self._conditioning = None

    @contextmanager
    def conditioning(self, **inputs: Any) -> Iterator[None]:
        """Condition every attached host on `inputs` inside the `with` block, then restore what was there before."""
        with self.conditioned(self.prepare(**inputs)):
            yield

    @contextmanager
    def conditioned(self, prepared: Any) -> Iterator[None]:
        """Do the same as `conditioning` with what `prepare` returned, or with None for no conditioning."""
        previous = self._conditioning
        self._conditioning = prepared
        try:
            yield
        finally:
            self._conditioning = previous

    @property
    def is_conditioned(self) -> bool:
        """Whether the adapter has conditioning."""
        return self._conditioning is not None

    def forward(self, branch: str, *args: Any, **kwargs: Any) -> Any:
        """Run the method named `branch`.

        All computation with the adapter's weights enters here, so that the hooks that bring offloaded weights to the
        device see it.
        """
        return getattr(self, branch)(*args, **kwargs)

    def recomputed(self, function: Callable[..., Result], *inputs: Any) -> Result:
        """Call `function(*inputs)`; under gradient checkpointing, the backward pass recomputes its activations."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            result: Result = self._gradient_checkpointing_func(function, *inputs)
            return result
        return function(*inputs)

    def sites(self, role: str) -> Mapping[str, dict[str, Any]]:
        """Map the names of a host's sites to their options; `role` is "unet" or "controlnet"."""
        return self.config[f"{role}_sites"]

    def site_hook(self, role: str, site: str, module: nn.Module) -> AdapterHook:
        """Make the hook for one site. Raises ValueError if `module`, which the host has there, does not fit."""
        raise NotImplementedError

    def prepare_conditioning(self, *args: Any, **inputs: Any) -> Any:
        """Compute from the inputs of `prepare` what is the same at every step; each method names its own."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # A copy of an adapter is conditioned on nothing, and knows no host; weak references cannot be pickled.
        return {name: value for name, value in self.__dict__.items() if name != "_hosts"} | {"_conditioning": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_hosts": weakref.WeakSet()})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        # Hosts that were copied before, as those of a pipeline are, still have the hooks of the original.
        for host in [memo[id(host)] for host in self._hosts if id(host) in memo]:
            for hook in itertools.chain.from_iterable(_adapter_hooks(module).values() for module in host.modules()):
                if hook.adapter is self:
                    hook.adapter = copied
            copied._hosts.add(host)
        return copied

    def _hook_names(self, module: nn.Module) -> list[str]:
        return [name for name, hook in _adapter_hooks(module).items() if hook.adapter is self]


def _adapter_hooks(module: nn.Module) -> dict[str, AdapterHook]:
    registry = getattr(module, "_diffusers_hook", None)
    hooks = registry.hooks if registry is not None else {}
    return {name: hook for name, hook in hooks.items() if isinstance(hook, AdapterHook)}
