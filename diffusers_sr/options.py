"""Options of the command line as dataclass fields."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, help: str) -> Any:
    """A dataclass field whose `help` is also the command line's."""
    return field(default=default, metadata={"help": help})
