"""Pictures and their originals in two folders, which belong together by their names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .formats import images_in
from .names import printable

LAYOUTS = (("test_LR", "test_HR"), ("lq", "gt"), ("lr", "hr"))
"""The folders of inputs and of originals in a test set; StableSR's have the first two."""


class PairsError(ValueError):
    """Pictures that cannot be compared; the message lists all of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        number = f"{len(problems)} problems were" if len(problems) > 1 else "A problem was"
        super().__init__("\n  ".join([f"{number} found, to be mended first:", *problems]))


class Pair(NamedTuple):
    """A picture and its original."""

    name: str
    """What both files are called, without suffix."""
    picture: Path
    original: Path


def parts_of(folder: Path) -> tuple[Path, Path] | None:
    """Give the folders of inputs and originals if a folder is a test set: if it has a folder of originals."""
    for inputs, originals in LAYOUTS:
        if (folder / originals).is_dir():
            return folder / inputs, folder / originals
    return None


def match(pictures: Path, originals: Path) -> tuple[list[Pair], list[str]]:
    """Find the picture of each original: the file of the same name, whatever its suffix.

    Returns:
        The pairs, in the order of the originals, and a line for each file without a partner or with several.

    Raises:
        PairsError: if a folder cannot be listed.
    """
    ours, theirs = _by_name(pictures), _by_name(originals)
    problems = [text for named in (ours, theirs) for text in _repeated(named)]
    alone = [paths[0] for name, paths in theirs.items() if name not in ours]
    problems += [f"{printable(path)}: has no partner in {printable(pictures)}" for path in alone]
    alone = [paths[0] for name, paths in ours.items() if name not in theirs]
    problems += [f"{printable(path)}: has no original in {printable(originals)}" for path in alone]
    if not theirs and not ours:
        problems = [f"{printable(folder)}: there is no image in this folder" for folder in (pictures, originals)]
    both = [name for name in theirs if name in ours]
    return [Pair(name, ours[name][0], theirs[name][0]) for name in both], problems


def _by_name(folder: Path) -> dict[str, list[Path]]:
    named: dict[str, list[Path]] = defaultdict(list)
    try:
        for path in images_in(folder):
            named[path.stem].append(path)
    except OSError as error:
        raise PairsError([f"{printable(folder)}: this folder cannot be listed: {error.strerror}"]) from error
    return named


def _repeated(named: dict[str, list[Path]]) -> Iterator[str]:
    for paths in named.values():
        if len(paths) > 1:
            others = ", ".join(printable(path.name) for path in paths[1:])
            yield f"{printable(paths[0])}: has the same name as {others}"
