"""Check single arguments of a call. Numbers may be numpy's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

AUTO: Any = "auto"
"""This size of tiles stands for the one that fits into the memory that is free."""


def check_texts(name: str, text: object, embeds: object = None) -> None:
    """Raise ValueError if `text` is not a text or a list of texts, or is given together with its embeddings."""
    if text is not None and embeds is not None:
        raise ValueError(f"Both `{name}` and `{name}_embeds` are given: give one of them.")
    texts = [text] if isinstance(text, str) else text
    if text is not None and not (isinstance(texts, list) and texts and all(isinstance(one, str) for one in texts)):
        raise ValueError(f"{name}={text!r}, expected a text, or a list with one text for each image.")


def check_number(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a finite number."""
    if not is_number(value):
        raise ValueError(f"{name}={value!r}, expected a number.")


def check_fraction(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a number from 0 to 1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}, expected a number from 0 to 1.")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise ValueError unless `value` is a whole number from `least` upwards."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}, expected a whole number from {least} upwards.")


def check_flag(name: str, value: object) -> None:
    """Raise ValueError unless `value` is True or False; a text such as "no" would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}, expected True or False.")


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r}, expected one of {', '.join(map(repr, allowed))}.")


def check_multiple(name: str, value: Any, unit: int) -> None:
    """Raise ValueError unless `value` is a multiple of `unit`, the pixels per latent, from 0 upwards."""
    if not isinstance(value, Integral) or value < 0 or value % unit:
        raise ValueError(f"{name}={value!r}, expected a multiple of {unit}, the pixels per latent.")


def check_overlap(tile_overlap: int, tile_size: int) -> None:
    """Raise ValueError unless tiles overlap by less than their size, which is a number."""
    if tile_size == AUTO:
        raise ValueError(f"tile_size={tile_size!r} is for a call: give the model's own size as a number.")
    if tile_overlap >= tile_size:
        raise ValueError(f"tile_overlap={tile_overlap}, expected less than tile_size={tile_size}.")


def check_timestep(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a whole number from 0 upwards; the scheduler knows how many there are."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name}={value!r}, expected a timestep of the training, a whole number from 0 upwards.")


def is_number(value: object) -> bool:
    """Whether `value` is a finite real number."""
    return isinstance(value, Real) and math.isfinite(value)
