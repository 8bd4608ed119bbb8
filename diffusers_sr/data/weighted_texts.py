"""Several captions of one photograph, and the one that a sample is shown with.

A photo's text is one string, wherever it is kept. Several captions are its lines, each of which begins with a weight
and a tab: `0.31<TAB>a red house`. Any other string is one text, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from .seeds import sample_generator

_LINE = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\t(.*)")


def weighted_texts(texts: Mapping[str, float]) -> str:
    """Write texts and their weights as one string; a single text stays as it is. Line breaks become spaces."""
    if len(texts) == 1:
        return next(iter(texts))
    return "\n".join(f"{weight!r}\t{' '.join(text.split())}" for text, weight in texts.items())


def drawn_text(text: str, seed: int) -> str:
    """Draw one of the texts that `weighted_texts` wrote, in proportion to its weight, by a sample's own seed."""
    matches = [match for line in text.split("\n") if (match := _LINE.fullmatch(line))]
    if len(matches) < 2 or len(matches) <= text.count("\n"):
        return text
    weights = torch.tensor([float(match[1]) for match in matches], dtype=torch.float64)
    return matches[int(torch.multinomial(weights, 1, generator=sample_generator(seed, "caption")))][2]
