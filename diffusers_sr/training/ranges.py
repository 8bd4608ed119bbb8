"""Which values an option may have: ranges that stand in its annotation, and their checks.

    steps: Count = option(100, "Steps.")

The command line's parser reads the type; `check_options` reads the range too.
"""

from __future__ import annotations

import math
import types
from dataclasses import dataclass, fields
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; without the ends themselves where `above` or `below` say so."""

    low: float
    high: float | None = None
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        over = value > self.low if self.above else value >= self.low
        if self.high is None:
            return over and math.isfinite(value)
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low}"
        if self.high is None or self.high == math.inf:
            return low
        return f"{low} and {'below' if self.below else 'at most'} {self.high}"


@dataclass(frozen=True)
class OneOf:
    """Some texts."""

    texts: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.texts

    def __str__(self) -> str:
        return f"one of {', '.join(self.texts)}"


Count = Annotated[int, Range(1)]
CountFromZero = Annotated[int, Range(0)]
Share = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, below=True)]
Weight = Annotated[float, Range(0)]

_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check_options(options: Any) -> None:
    """Raise ValueError if a field of a dataclass has a value that its annotation does not allow."""
    annotations = get_type_hints(type(options), include_extras=True)
    for field in fields(options):
        value = getattr(options, field.name)
        if not _is_allowed(value, annotations[field.name]):
            shown = repr(value) if field.repr else "(not shown)"
            raise ValueError(f"{field.name}={shown}: it has to be {_allowed(annotations[field.name])}.")


def _is_allowed(value: Any, annotation: Any) -> bool:
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return _is_allowed(value, arguments[0]) and all(value in allowed for allowed in annotation.__metadata__)
    if kind in (Union, types.UnionType):
        return any(_is_allowed(value, each) for each in arguments)
    if kind is list:
        return isinstance(value, list) and all(_is_allowed(each, arguments[0]) for each in value)
    if annotation in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if annotation is float else annotation)


def _allowed(annotation: Any) -> str:
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return ", ".join([_allowed(arguments[0]), *map(str, annotation.__metadata__)])
    if kind in (Union, types.UnionType):
        return " or ".join(_allowed(each) for each in arguments)
    if kind is list:
        return f"a list, of which each has to be {_allowed(arguments[0])}"
    return "left out" if annotation is types.NoneType else _NAMES[annotation]
