"""The files to enlarge, and the file that each result goes to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .formats import WRITABLE, images_in


def plan_outputs(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """Pair every input file with the file its result goes to; these are all different, and none of them is an input.

    Args:
        inputs: files, and folders whose images are taken.
        output: a file, if the only input is a file and `output` has the suffix of an image; otherwise a folder.

    Raises:
        ValueError: if `output` is a file but has to be a folder, or a result would overwrite an input.
    """
    found = [source for path in inputs for source in (images_in(path) if path.is_dir() else [path])]
    sources = list({os.path.abspath(source): source for source in found}.values())
    # Files that keep their name come first, so that none loses it to one that has to be renamed.
    sources.sort(key=lambda source: source.suffix.lower() not in WRITABLE)
    names_a_file = output.suffix.lower() in WRITABLE and not output.is_dir()
    if names_a_file and len(inputs) == 1 and not inputs[0].is_dir():
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
                name = f"{source.stem}_{number}{suffix}"
            taken.add(name.lower())
            outputs.append((source, output / name))
    resolved = {source.resolve() for source in sources}
    for source, target in outputs:
        if target.resolve() in resolved:
            raise ValueError(f"the result of {source} would overwrite the input {target}: choose another output")
    return outputs
