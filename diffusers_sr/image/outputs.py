"""The files to enlarge, and the file that each result goes to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .folders import find_images
from .formats import ASKED_FOR, READABLE, WRITABLE

_LONGEST_NAME = 255  # bytes
COMPARISON = "_compare.png"
"""What the name of a comparison ends in, after the stem of its result."""


@dataclass(frozen=True)
class Naming:
    """How the results in a folder are named, after their inputs."""

    suffix: str = ""
    """Text between the stem of the input's name and the dot."""
    format: str | None = None
    """One of `FORMATS`, or None for the input's own where every Pillow writes it, and PNG elsewhere."""
    comparisons: bool = False
    """Whether there is a comparison besides each result."""

    def ending(self, source: Path) -> str:
        """Give the result's suffix, with the dot."""
        if self.format is not None:
            return f".{self.format}"
        suffix = source.suffix.lower()
        return source.suffix if suffix in WRITABLE and suffix not in ASKED_FOR else ".png"


class Plan(NamedTuple):
    """What is to be done."""

    outputs: list[tuple[Path, Path]]
    """Every input file with the file its result goes to; these are all different, and none of them is an input."""
    failures: list[tuple[Path, str]]
    """Folders that cannot be listed or have no image, and why."""
    notes: list[tuple[Path, str]]
    """What was left out, and why."""


def plan_outputs(
    inputs: Sequence[Path],
    output: Path,
    naming: Naming = Naming(),
    recursive: bool = False,
    keeps_existing: bool = False,
) -> Plan:
    """Pair every input file with the file its result goes to.

    Args:
        inputs: files, and folders whose images are taken.
        output: a file, if the only input is a file and `output` has the suffix of an image; otherwise a folder.
        naming: how results in a folder are named.
        recursive: whether the folders in folders are searched, except for `output`; results go to folders of the same
            names.
        keeps_existing: whether files that exist are not overwritten. Then a file where the result of another input
            goes is taken for that result, not for an input.

    Raises:
        ValueError: if `output` is a file but has to be a folder, or has the suffix of a format that is only read; if
            a result would overwrite an input; or if `naming` says something else about a file's name than `output`.
    """
    ending = output.suffix.lower()
    if ending in READABLE and ending not in WRITABLE and not output.is_dir():
        raise ValueError(f"{output}: {output.suffix} is read, but not written: choose {', '.join(WRITABLE)}")
    found = find_images(inputs, recursive, output)
    images = list({os.path.abspath(source): (source, folder) for source, folder in found.images}.values())
    # Files that keep their suffix come first, so that none loses its name to one that has to be renamed.
    images.sort(key=lambda image: naming.ending(image[0]) != image[0].suffix)
    if ending in WRITABLE and not output.is_dir() and len(inputs) == 1 and not os.path.isdir(inputs[0]):
        if naming.suffix or naming.format:
            raise ValueError(f"{output} is the name of the result: leave out --suffix and --format, or give a folder")
        outputs = [(inputs[0], output)]
    elif (ending in WRITABLE and not output.is_dir()) or output.is_file():
        raise ValueError(f"{output} is a file, but results of several files or of a folder go to a folder: give one")
    else:
        outputs = _named(images, output, naming)
        if keeps_existing:
            results = _results_among(outputs)
            outputs = _named([image for image in images if image[0] not in results], output, naming)
    _check_inputs_stay(outputs, naming)
    return Plan(outputs, found.failures, found.notes)


def comparison_of(target: Path) -> Path:
    """Give the file that the comparison besides a result goes to."""
    return target.with_name(_fitting(target.stem, COMPARISON))


def _named(images: Sequence[tuple[Path, Path]], output: Path, naming: Naming) -> list[tuple[Path, Path]]:
    outputs = []
    taken: set[str] = set()
    for source, folder in images:
        ending, number = naming.ending(source), 1
        while True:
            counted = "" if number == 1 else f"_{number}"
            room = max(ending, COMPARISON, key=len) if naming.comparisons else ending
            stem = _fitting(source.stem, f"{naming.suffix}{counted}{room}").removesuffix(room)
            target = output / folder / f"{stem}{ending}"
            names = {str(file).lower() for file in _files(target, naming)}  # some file systems do not tell A from a
            if not names & taken:
                break
            number += 1
        taken |= names
        outputs.append((source, target))
    return outputs


def _files(target: Path, naming: Naming) -> list[Path]:
    return [target, comparison_of(target)] if naming.comparisons else [target]


def _results_among(outputs: Sequence[tuple[Path, Path]]) -> set[Path]:
    """Find the inputs that are where the result, or the comparison, of another goes."""
    targets: dict[str, Path] = {}
    for source, target in outputs:
        for file in (target, comparison_of(target)):
            targets[os.path.realpath(file)] = source
    return {source for source, _ in outputs if targets.get(os.path.realpath(source), source) != source}


def _check_inputs_stay(outputs: Sequence[tuple[Path, Path]], naming: Naming) -> None:
    # Unlike `resolve`, `realpath` bears links that lead in circles.
    resolved = {os.path.realpath(source) for source, _ in outputs}
    for source, target in outputs:
        for file in _files(target, naming):
            if os.path.realpath(file) in resolved:
                raise ValueError(f"the result of {source} would overwrite the input {file}: choose another output")


def _fitting(stem: str, ending: str) -> str:
    """Join the parts of a file's name; the stem is shortened if the name would be longer than file systems allow."""
    while len(os.fsencode(stem + ending)) > _LONGEST_NAME:
        stem = stem[:-1]
    return stem + ending
