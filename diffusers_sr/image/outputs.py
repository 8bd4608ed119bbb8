"""The files to enlarge, and the file that each result goes to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .formats import READABLE, WRITABLE, images_in

_LONGEST_NAME = 255  # bytes


def plan_outputs(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """Pair every input file with the file its result goes to; these are all different, and none of them is an input.

    Args:
        inputs: files, and folders whose images are taken; those that cannot be listed are taken to be empty.
        output: a file, if the only input is a file and `output` has the suffix of an image; otherwise a folder.

    Raises:
        ValueError: if `output` is a file but has to be a folder, or has the suffix of a format that is only read; or
            if a result would overwrite an input.
    """
    if output.suffix.lower() in READABLE and output.suffix.lower() not in WRITABLE and not output.is_dir():
        raise ValueError(f"{output}: {output.suffix} is read, but not written: choose {', '.join(WRITABLE)}")
    found = [source for path in inputs for source in _images_of(path)]
    sources = list({os.path.abspath(source): source for source in found}.values())
    # Files that keep their name come first, so that none loses it to one that has to be renamed.
    sources.sort(key=lambda source: source.suffix.lower() not in WRITABLE)
    names_a_file = output.suffix.lower() in WRITABLE and not output.is_dir()
    if names_a_file and len(inputs) == 1 and not os.path.isdir(inputs[0]):
        outputs = [(sources[0], output)]
    elif names_a_file or output.is_file():
        raise ValueError(f"{output} is a file, but results of several files or of a folder go to a folder: give one")
    else:
        outputs = []
        taken: set[str] = set()
        for source in sources:
            suffix = source.suffix if source.suffix.lower() in WRITABLE else ".png"
            name, number = f"{source.stem}{suffix}", 1
            while name.lower() in taken:  # some file systems do not tell A from a
                number += 1
                name = _fitting(source.stem, f"_{number}{suffix}")
            taken.add(name.lower())
            outputs.append((source, output / name))
    resolved = {os.path.realpath(source) for source in sources}  # unlike `resolve` it bears links that lead in circles
    for source, target in outputs:
        if os.path.realpath(target) in resolved:
            raise ValueError(f"the result of {source} would overwrite the input {target}: choose another output")
    return outputs


def why_without_images(path: Path) -> str | None:
    """Say why no image comes from an input, if it is a folder without any or one that cannot be listed."""
    if not os.path.isdir(path):
        return None
    try:
        return None if images_in(path) else "there is no image in this folder"
    except OSError as error:
        return f"this folder cannot be listed: {error.strerror}"


def _images_of(path: Path) -> list[Path]:
    if not os.path.isdir(path):
        return [path]
    try:
        return images_in(path)
    except OSError:
        return []


def _fitting(stem: str, ending: str) -> str:
    """Join the parts of a file's name; the stem is shortened if the name would be longer than file systems allow."""
    while len(os.fsencode(stem + ending)) > _LONGEST_NAME:
        stem = stem[:-1]
    return stem + ending
