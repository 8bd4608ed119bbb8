"""Computed memory: a step runs on tensors without data, and their storages are counted."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.library import _scoped_library
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

# Operations used here that CUDA's autocast computes in float32 and the CPU's does not.
_FLOAT32_ON_CUDA = (
    torch.ops.aten.layer_norm.default,
    torch.ops.aten.group_norm.default,
    torch.ops.aten.softmax.int,
)
# bitsandbytes keeps two bytes per parameter, and a scale for each block of both; small tensors stay in float32.
_BLOCK, _SMALLEST_8BIT = 256, 4096


class Storages(TorchDispatchMode):
    """A counter of the bytes of tensors without data. Operations on tensors with data, the host's, run as usual.

    Attributes:
        current, peak: bytes in use now, and at most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._seen: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def count(self, values: Any) -> None:
        """Count the storages in `values` that have not been counted yet, until they are freed."""
        for tensor in tree_leaves(values):
            if isinstance(tensor, FakeTensor) and (storage := tensor.untyped_storage()) not in self._seen:
                size = storage.nbytes()
                self._seen[storage] = size
                self.current += size
                self.peak = max(self.peak, self.current)
                weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.current -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
            with no_dispatch():
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        self.count(result)
        return result


@contextmanager
def cuda_lists() -> Iterator[None]:
    """Inside the `with` block, let the CPU's autocast choose types as CUDA's does."""

    def in_float32(operation: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = tree_map_only(Tensor, lambda each: each.float(), (args, kwargs))
            with torch.autocast("cpu", enabled=False):
                return operation(*args, **kwargs)

        return kernel

    with _scoped_library("aten", "IMPL") as library:
        for operation in _FLOAT32_ON_CUDA:
            library.impl(operation, in_float32(operation), "AutocastCPU")
        yield


class AdamW8bitState:
    """The memory of bitsandbytes' AdamW8bit, which changes weights in place."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.state = [_moments_8bit(parameter) for parameter in parameters for _ in range(2)]

    def step(self) -> None:
        pass


def _moments_8bit(parameter: nn.Parameter) -> list[Tensor]:
    count = parameter.numel()
    if count < _SMALLEST_8BIT:
        return [parameter.new_empty(count, dtype=torch.float32)]
    scales = parameter.new_empty(-(-count // _BLOCK), dtype=torch.float32)
    return [parameter.new_empty(count, dtype=torch.uint8), scales]
