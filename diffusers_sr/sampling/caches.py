"""Hooks of diffusers that keep what a model computed in one step for the next ones.

Pyramid attention broadcast, FasterCache, TaylorSeer and their kin take every call of a model for the next step of the
same latents. So there may be only one call in a step: tiles, or a second text, would be given what was computed for
the first. (To keep it for each tile would take memory that grows with the image.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers.hooks import HookRegistry
from diffusers.models import CacheMixin
from torch import nn


class Caches:
    """The models of a sampling run that have such hooks; what they keep of another run is forgotten.

    Args:
        models: those that the run calls.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._hooks = {model: hooks for model in models if (hooks := stateful_hooks(model))}
        self._calls = dict.fromkeys(self._hooks, 0)
        for model in self._hooks:
            registry = HookRegistry.check_if_exists_or_initialize(model)
            registry.reset_stateful_hooks()
            registry.invalidate_child_registries_cache()

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def check(self, calls: int) -> None:
        """Raise ValueError if a step calls the models more than once, for that many groups of tiles."""
        if self._hooks and calls > 1:
            raise ValueError(
                f"{self._describe(next(iter(self._hooks)))}, but the image has {calls} tiles: take the hooks off, or "
                "give a tile_size that the whole image fits into."
            )

    @contextmanager
    def step(self) -> Iterator[None]:
        """Tell the hooks that the calls in the `with` block belong to one step.

        Raises:
            ValueError: if a model is called more than once in it.
        """
        with ExitStack() as stack:
            for model in self._hooks:
                self._calls[model] = 0
                # Not every model that can have the hooks is a CacheMixin, whose method this is; a UNet is not.
                stack.enter_context(CacheMixin.cache_context(model, "step"))
                stack.callback(model.register_forward_pre_hook(self._count).remove)
            yield

    def _count(self, model: nn.Module, _: Any) -> None:
        self._calls[model] += 1
        if self._calls[model] > 1:
            raise ValueError(
                f"{self._describe(model)}, but is called more than once in a step, for each of the texts or images it "
                "is shown, or again in float32: take the hooks off."
            )

    def _describe(self, model: nn.Module) -> str:
        kinds = ", ".join(sorted({type(hook).__name__ for hook in self._hooks[model]}))
        return f"{type(model).__name__} has hooks that keep values from one step for the next ({kinds})"


def stateful_hooks(model: nn.Module) -> list[Any]:
    """List the hooks of diffusers, on a model and on the modules in it, that keep something between two calls."""
    registries = (vars(module).get("_diffusers_hook") for module in model.modules())
    return [
        hook
        for registry in registries
        if registry is not None
        for hook in registry.hooks.values()
        if hook._is_stateful
    ]
