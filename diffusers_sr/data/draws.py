"""What a degradation draws from the generator of its sample."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Generator

T = TypeVar("T")


def uniform(generator: Generator, low: float, high: float) -> float:
    """Draw a number between two."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def chance(generator: Generator, probability: float) -> bool:
    """Draw whether something happens."""
    return torch.rand((), generator=generator).item() < probability


def choice(generator: Generator, options: tuple[T, ...]) -> T:
    """Draw one of several, all equally likely."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def weighted_choice(generator: Generator, options: tuple[T, ...], probabilities: tuple[float, ...]) -> T:
    """Draw one of several, by their probabilities."""
    return options[int(torch.multinomial(torch.tensor(probabilities, dtype=torch.float64), 1, generator=generator))]


def whole_number(generator: Generator, low: int, high: int) -> int:
    """Draw a whole number from `low` to `high`, which may be drawn too."""
    return int(torch.randint(low, high + 1, (), generator=generator))
