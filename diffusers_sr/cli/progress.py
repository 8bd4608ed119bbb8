"""The progress of a whole folder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

from .processes import Group


class Bar(Protocol):
    """A bar that moves on by so many photos."""

    def update(self, n: int = 1, /) -> Any:
        """Move on."""


def photo_bar(total: int, group: Group) -> AbstractContextManager[Bar]:
    """Show how many of the photos are done and how long the rest will take, below the bars of their steps.

    Nothing is shown for a single photo, or where standard error is not a terminal.
    """
    from tqdm.auto import tqdm

    title = "photos" if group.size == 1 else f"photos of process 1 of {group.size}"
    is_hidden = True if total < 2 or not group.is_first else None  # None asks for a terminal
    bar = tqdm(total=total, desc=title, unit="photo", dynamic_ncols=True, disable=is_hidden)
    return cast(AbstractContextManager[Bar], bar)
