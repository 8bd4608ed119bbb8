"""SIGTERM during work that a run can do without."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


def until_sigterm(signals: list[int], function: Callable[[], Result]) -> Result | None:
    """Call a function and give its result; at SIGTERM leave it at once, add the number to the list, and give None.

    It has to run in the main thread.
    """
    is_inside = True

    def leave(number: int, frame: Any) -> None:
        nonlocal is_inside
        signals.append(number)
        if is_inside:
            is_inside = False
            raise _Left

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        try:
            return function()
        finally:
            is_inside = False
    except _Left:
        return None
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Left(BaseException):
    """The function is left; not an Exception, which it might handle."""
