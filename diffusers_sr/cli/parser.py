"""The parser of a command, which can be completed when the command is chosen."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias


class CommandParser(argparse.ArgumentParser):
    """A parser of one command.

    Args:
        complete: called once with the parser when the command is chosen, before its arguments are read: it adds what
            takes long to import.
    """

    def __init__(
        self, *args: Any, complete: Callable[[argparse.ArgumentParser], None] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.complete = complete

    def parse_known_args(  # type: ignore[override]  # typeshed has overloads, and this covers all of them
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Complete the parser if it has not been, then parse as argparse does."""
        complete, self.complete = self.complete, None
        if complete is not None:
            complete(self)
        return super().parse_known_args(args, namespace)


Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
