"""`AttentionAdapter`: new attention for a stock UNet and ControlNet, without a new weight in either of them.

The adapter owns every new weight. On the host (a `UNet2DConditionModel` or a `ControlNetModel`) it leaves only model
hooks of `diffusers.hooks`, which are plain objects: the host's state dict stays stock, and so do its saved
checkpoints, its LoRA and its processors.
"""

from __future__ import annotations

import copy
import functools
import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import torch
from diffusers import ConfigMixin, ControlNetModel, ModelMixin, UNet2DConditionModel
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import HookFunctionReference
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from diffusers.utils.torch_utils import unwrap_module
from torch import nn
from typing_extensions import Self

Host: TypeAlias = UNet2DConditionModel | ControlNetModel
Result = TypeVar("Result")

_CONDITION_EMBEDDING = "condition_embedding"
_OTHER_HOST = "use the adapter with the base model it was made for, or one of the same shape."
_attachments = itertools.count()


class AdapterHook(ModelHook):
    """What an adapter leaves at one site of a host.

    A subclass overrides `pre_forward` or `post_forward`. It computes with the adapter's weights only through
    `self.adapter(...)`, and while the adapter has no conditioning it returns what it was given.

    A deep copy of a hooked module is attached to the same adapter, unless that adapter was copied before it in the
    same `copy.deepcopy`; then it is attached to the copy.
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
    """Replaces the hidden states a transformer block is given by what `branch` of the adapter makes of them.

    The branch is called with the site and the hidden states.
    """

    def __init__(self, adapter: AttentionAdapter, role: str, site: str, branch: str) -> None:
        super().__init__(adapter, role, site)
        self.branch = branch

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self.adapter.is_conditioned:
            return args, kwargs
        if args:
            return (self.adapter(self.branch, self.site, args[0]), *args[1:]), kwargs
        hidden_states = self.adapter(self.branch, self.site, kwargs["hidden_states"])
        return args, {**kwargs, "hidden_states": hidden_states}


class ConditionEmbeddingHook(ModelHook):
    """Lets a ControlNet take an embedded condition image as `controlnet_cond`.

    The embedding of the condition image (the convolutions before the first block) is the same at every step and in
    both halves of classifier-free guidance. With this hook it can be computed once, by calling
    `controlnet.controlnet_cond_embedding(image)`, and handed over in place of the image: what already has the
    channels of an embedding passes through unchanged.
    """

    def new_forward(self, module: ControlNetConditioningEmbedding, conditioning: torch.Tensor) -> torch.Tensor:
        if conditioning.shape[1] == module.conv_out.out_channels != module.conv_in.in_channels:
            return conditioning
        embedding: torch.Tensor = self.fn_ref.original_forward(conditioning)
        return embedding


class AttentionAdapter(ModelMixin, ConfigMixin):
    """Base of the adapters: where they attach, and what they are conditioned on.

    Its configuration holds `unet_sites` and `controlnet_sites`: dictionaries from the name of a module of the host
    ("mid_block.attentions.0") to what has to be known to build the adapter's part for it. A subclass builds its
    weights from them, and implements `prepare_conditioning` and `site_hook`.

    Attached without conditioning, a host computes bit for bit what it computes without an adapter; so stay attached
    (to attach and detach around every call would make `torch.compile` recompile on every call) and scope only the
    conditioning::

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

    def attach(self, model: nn.Module) -> Self:
        """Put this adapter's hooks on a UNet or a ControlNet, compiled or not. Sites that have them are left alone.

        Raises:
            TypeError: if `model` is neither a `UNet2DConditionModel` nor a `ControlNetModel`.
            ValueError: if a site of this adapter is missing in `model` or has another shape there; nothing is
                attached then.
        """
        host, role = _host(model)
        hooks = {site: self.site_hook(role, site, _site_module(host, site)) for site in self.sites(role)}
        if _embeds_image(host) and host.config.controlnet_conditioning_channel_order != "rgb":
            raise ValueError(
                "The ControlNet's `controlnet_conditioning_channel_order` is "
                f"{host.config.controlnet_conditioning_channel_order!r}, but only 'rgb' can take a condition image "
                "that is embedded once for all steps: re-order the input channels of "
                "`controlnet_cond_embedding.conv_in` and set the configuration to 'rgb'."
            )
        name = f"{type(self).__name__}_{next(_attachments)}"
        for site, hook in hooks.items():
            module = host.get_submodule(site)
            if self._hook_names(module):
                continue
            _register(module, hook, name)
        if _embeds_image(host) and not _has_condition_hook(host):
            _register(host.controlnet_cond_embedding, ConditionEmbeddingHook(), _CONDITION_EMBEDDING)
        self._hosts.add(host)
        return self

    def detach(self, model: nn.Module | None = None) -> Self:
        """Take this adapter's hooks away, so that no trace is left: the exact inverse of `attach`.

        Args:
            model: the host to detach from. By default every host this adapter was attached to by `attach`; a deep
                copy of such a host is not among them and has to be given.
        """
        hosts: list[Any] = list(self._hosts) if model is None else [_host(model)[0]]
        for host in hosts:
            for module in list(host.modules()):
                for name in self._hook_names(module):
                    _remove(module, name)
            if _has_condition_hook(host) and not any(_adapter_hooks(module) for module in host.modules()):
                _remove(host.get_submodule("controlnet_cond_embedding"), _CONDITION_EMBEDDING)
            self._hosts.discard(host)
        return self

    def is_attached(self, model: nn.Module) -> bool:
        """Whether every site of this adapter in `model` has its hook. It is read from `model`, not remembered."""
        host, role = _host(model)
        modules = dict(host.named_modules())
        return (not _embeds_image(host) or _has_condition_hook(host)) and all(
            site in modules and self._hook_names(modules[site]) for site in self.sites(role)
        )

    def prepare(self, **inputs: Any) -> Any:
        """Compute from `inputs` what is the same at every step; `prepare_conditioning` says what to give.

        Gradients flow through what is prepared. `conditioned` takes it, as often as it is needed.
        """
        return self("prepare_conditioning", **inputs)

    def set_conditioning(self, **inputs: Any) -> None:
        """Condition every attached host on `inputs`, as those of `prepare`, until the next call."""
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
        """Do the same with what `prepare` gave, or with None for no conditioning."""
        previous = self._conditioning
        self._conditioning = prepared
        try:
            yield
        finally:
            self._conditioning = previous

    @property
    def is_conditioned(self) -> bool:
        return self._conditioning is not None

    def forward(self, branch: str, *args: Any, **kwargs: Any) -> Any:
        """Run the method named `branch`. All computation with the adapter's weights enters here: this is what lets
        the hooks that bring offloaded weights to the device see it."""
        return getattr(self, branch)(*args, **kwargs)

    def recomputed(self, function: Callable[..., Result], *inputs: Any) -> Result:
        """`function(*inputs)`, whose activations the backward pass computes again under gradient checkpointing."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            result: Result = self._gradient_checkpointing_func(function, *inputs)
            return result
        return function(*inputs)

    def sites(self, role: str) -> Mapping[str, dict[str, Any]]:
        """The sites of a host by their names in it; `role` is "unet" or "controlnet"."""
        return self.config[f"{role}_sites"]

    def site_hook(self, role: str, site: str, module: nn.Module) -> AdapterHook:
        """The hook for one site. Raises ValueError if `module`, which the host has there, does not fit."""
        raise NotImplementedError

    def prepare_conditioning(self, *args: Any, **inputs: Any) -> Any:
        """Compute from the inputs of `set_conditioning` what is the same at every step; a method names its own."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # A copy of an adapter is attached to nothing and conditioned on nothing.
        return {**self.__dict__, "_conditioning": None, "_hosts": weakref.WeakSet()}

    def _hook_names(self, module: nn.Module) -> list[str]:
        return [name for name, hook in _adapter_hooks(module).items() if hook.adapter is self]


def site_key(site: str) -> str:
    """A site's key in a `ModuleDict`, where dots are not allowed: "mid_block__attentions__0"."""
    return site.replace(".", "__")


def check_site(role: str, site: str, module: nn.Module, kind: type[Any]) -> Any:
    """The `module` a host has at `site`. Raises ValueError if it is not of the kind the adapter was made for."""
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


def _host(model: nn.Module) -> tuple[Host, str]:
    model = unwrap_module(model)
    if isinstance(model, UNet2DConditionModel):
        return model, "unet"
    if isinstance(model, ControlNetModel):
        return model, "controlnet"
    raise TypeError(
        f"An attention adapter attaches to a UNet2DConditionModel or a ControlNetModel, not to a "
        f"{type(model).__name__}: give the model itself, without what is wrapped around it."
    )


def _site_module(host: Host, site: str) -> nn.Module:
    try:
        return host.get_submodule(site)
    except AttributeError:
        raise ValueError(
            f"The adapter has weights for {site!r}, but this {type(host).__name__} has no such module: {_OTHER_HOST}"
        ) from None


def _adapter_hooks(module: nn.Module) -> dict[str, AdapterHook]:
    registry = getattr(module, "_diffusers_hook", None)
    hooks = registry.hooks if registry is not None else {}
    return {name: hook for name, hook in hooks.items() if isinstance(hook, AdapterHook)}


def _embeds_image(host: Host) -> bool:
    """Whether this is a ControlNet whose condition is an image, and not latents."""
    return isinstance(getattr(host, "controlnet_cond_embedding", None), ControlNetConditioningEmbedding)


def _has_condition_hook(host: Host) -> bool:
    embedding = getattr(host, "controlnet_cond_embedding", None)
    registry = getattr(embedding, "_diffusers_hook", None)
    return registry is not None and registry.get_hook(_CONDITION_EMBEDDING) is not None


def _run_hooked(reference: HookFunctionReference, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    args, kwargs = reference.pre_forward(module, *args, **kwargs)
    return reference.post_forward(module, reference.forward(*args, **kwargs))


def _register(module: nn.Module, hook: ModelHook, name: str) -> None:
    HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, name)
    # The registry's wrapper holds `fn_ref` in a closure, which `copy.deepcopy` does not follow: a copy of the module
    # would silently run the forward, and so the weights, of the original. As an argument of a partial it is copied.
    forward = hook.fn_ref.original_forward or hook.fn_ref.forward
    module.forward = functools.update_wrapper(functools.partial(_run_hooked, hook.fn_ref, module), forward)


def _remove(module: nn.Module, name: str) -> None:
    registry: Any = module._diffusers_hook
    registry.remove_hook(name, recurse=False)
    if not registry.hooks:
        del module._diffusers_hook
        # What is left in the instance is the class's own method, unless something else had wrapped it before us.
        if getattr(module.forward, "__func__", None) is type(module).forward:
            del module.forward
