"""Go on with smaller tiles where a stage of a call runs out of memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

import torch
from diffusers.utils import logging

logger = logging.get_logger(__name__)

Result = TypeVar("Result")

# CUDA has a class of error for it. The allocators of the CPU (on Linux and macOS, and on Windows) and of MPS only say
# so, and so do CUDA's libraries of matrix products and convolutions.
_SAY_SO = ("can't allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED")

_sizes_used: ContextVar[dict[str, int] | None] = ContextVar("sizes_used", default=None)


class Smaller(NamedTuple):
    """An argument of a call that takes less memory now."""

    argument: str
    before: int
    now: int


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out, on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(text in str(error) for text in _SAY_SO)


def with_less_memory(stage: str, compute: Callable[[], Result], shrink: Callable[[], list[Smaller]]) -> Result:
    """Run a part of a call; as long as memory runs out, run it again with less, and say so.

    Args:
        stage: what the warning calls it.
        compute: it may not change anything before it succeeds, nor draw random numbers.
        shrink: makes what `compute` does smaller and says how; there is nothing to say if that is not possible.
    """
    while True:
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not (smaller := shrink()):
                raise
        # Outside the handler: until its end the error keeps the tensors of `compute` alive.
        free_unused_memory()
        changes = " and ".join(f"{each.argument}={each.now} instead of {each.before}" for each in smaller)
        logger.warning(f"There was not enough memory for {stage}: it is repeated with {changes}.")
        used = _sizes_used.get()
        if used is not None:
            used |= {each.argument: each.now for each in smaller}


def free_unused_memory() -> None:
    """Return memory that holds nothing any more to the devices."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


@contextmanager
def sizes_used() -> Iterator[dict[str, int]]:
    """Give the arguments of the calls in the `with` block that memory did not suffice for, with the values used."""
    used: dict[str, int] = {}
    token = _sizes_used.set(used)
    try:
        yield used
    finally:
        _sizes_used.reset(token)


def halved(side: int, unit: int) -> int:
    """Halve the side of a tile, to a multiple of `unit`, but to no less than `unit`."""
    return max(side // 2 // unit * unit, unit)
