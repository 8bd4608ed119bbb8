"""Allow one call at a time on a model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from diffusers.utils.torch_utils import unwrap_module
from torch import nn


@dataclass
class _Turn:
    lock: threading.RLock = field(default_factory=threading.RLock)
    callers: list[object] = field(default_factory=list)


_turns: WeakKeyDictionary[nn.Module, _Turn] = WeakKeyDictionary()
_turns_lock = threading.Lock()


@contextmanager
def turn_on(model: nn.Module, caller: object) -> Iterator[None]:
    """Let one thread at a time run a call on `model`, whose hooks read what the call is conditioned on.

    Calls from other threads wait, including those of other pipelines on the same model. Within a thread the call of
    one pipeline may run that of another, for example as its activation.

    Raises:
        RuntimeError: if a callback calls the pipeline whose call it is part of.
    """
    with _turns_lock:
        turn = _turns.setdefault(unwrap_module(model), _Turn())
    with turn.lock:
        if any(each is caller for each in turn.callers):
            raise RuntimeError(
                f"This {type(caller).__name__} was called by a callback of its own call: use a second pipeline of the "
                "same components for that."
            )
        turn.callers.append(caller)
        try:
            yield
        finally:
            turn.callers.pop()
