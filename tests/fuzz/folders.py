"""Folders of damaged files, each with one whole photo."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from .damage import damage
from .seeds import seeds

SOUND = "00 whole.png"
"""The whole photo. It comes first by name, so that models are loaded before the first damaged one is read."""


def damaged(number: int, seed: int) -> tuple[str, str, bytes]:
    """Make file number `number`: its kind, its suffix and its contents; number and seed always give the same."""
    kind, (suffix, content) = _kinds()[number % len(_kinds())]
    return kind, suffix, damage(content, random.Random(f"{seed}/{number}"))


@cache
def _kinds() -> list[tuple[str, tuple[str, bytes]]]:
    return sorted(seeds().items())


def fill(folder: Path, files: int, seed: int, first: int = 0) -> list[Path]:
    """Write the whole photo, and damaged files number `first` to `first + files - 1`; give the paths of these."""
    folder.mkdir(parents=True)
    (folder / SOUND).write_bytes(seeds()["PNG"][1])
    paths = []
    for number in range(first, first + files):
        kind, suffix, content = damaged(number, seed)
        paths.append(folder / f"{number:06d} {kind}{suffix}")
        paths[-1].write_bytes(content)
    return paths
