"""Run models that are in half precision in float32, without touching them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

_HALF = (torch.float16, torch.bfloat16)

# The compiler's stance is that of all threads.
_one_at_a_time = threading.RLock()

_CASTS = {"to", "type", "half", "bfloat16"}
# Functions that compute nothing. The hooks that bring offloaded weights in and take them out use them, and would store
# in a model what comes out of them.
_LEFT_ALONE = {
    *(
        "_parse_to",
        "__get__",
        "__set__",
        "__setitem__",
        "_make_subclass",
        "as_subclass",
        "detach",
        "clone",
        "contiguous",
    ),
    *("empty_like", "cpu", "cuda", "pin_memory", "is_pinned", "record_stream", "data_ptr", "untyped_storage"),
    *("size", "dim", "numel", "element_size", "stride", "is_contiguous", "is_floating_point"),
}


class _Float32Mode(TorchFunctionMode):
    """A mode that gives every function float32 in place of half precision, and rounds nothing to half precision.

    The weights stay as they are, wherever hooks for offloading keep them, and so do calls in other threads.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in _CASTS and not isinstance(args[0], nn.Parameter):
            result = function(*args, **kwargs)
            was_wide = args[0].dtype not in _HALF and args[0].is_floating_point()
            is_rounded = was_wide and isinstance(result, torch.Tensor) and result.dtype in _HALF
            return args[0].to(result.device) if is_rounded else result
        is_in_place = name.endswith("_") and not name.endswith("__")
        if name in _CASTS | _LEFT_ALONE or is_in_place:
            return function(*args, **kwargs)
        args, kwargs = tree_map(_widened, (args, kwargs))
        return function(*args, **kwargs)


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in _HALF:
        return value.float()
    return torch.float32 if value in _HALF else value


@contextmanager
def in_float32(devices: Iterable[str] = ("cpu",)) -> Iterator[None]:
    """Compute in float32 inside the `with` block, with weights in half precision and under autocast too.

    Compiled models run uncompiled. Other threads wait for their turn in here.

    Args:
        devices: the types of the devices that autocast may be enabled for.
    """
    with _one_at_a_time, ExitStack() as stack:
        for device in devices:
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_Float32Mode())
        yield


def is_in_half_precision(models: Iterable[nn.Module], devices: Iterable[str] = ("cpu",)) -> bool:
    """Whether a model has weights in fewer than 32 bits, or autocast is enabled."""
    weights = (weight for model in models for weight in model.parameters())
    return any(weight.element_size() < 4 for weight in weights) or any(map(torch.is_autocast_enabled, devices))
