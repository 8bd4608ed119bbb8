"""`python -m tests.fuzz.references FOLDER RESULTS MODEL`: take each file of a folder as the reference of a photo.

Each is a run of the command, in this process, because importing takes longest. It prints "NAME: EXIT STATUS".
"""

from __future__ import annotations

import sys
from pathlib import Path

from diffusers_sr.cli.main import main

from .folders import SOUND


def status(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code


def run(folder: Path, results: Path, model: str) -> None:
    results.mkdir()
    options = ["--model", model, "--upscale", "1", "--device", "cpu"]
    for path in sorted(folder.iterdir()):
        output = str(results / f"{path.name}.png")
        reference = ["upscale", str(folder / SOUND), "-o", output, "--reference", str(path)]
        print(f"{path.name}: {status([*reference, *options])}", flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
