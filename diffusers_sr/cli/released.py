"""`diffusers-sr models`: list the models that --model takes by name."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..hub import BASE, METHODS, MODELS, embedded_models, stands_on_base
from ..publishing.shareable import mask_credentials
from ..released.catalogue import ELSEWHERE, RELEASED, by_hand
from .parser import Commands

DESCRIPTION = """\
List the models that `diffusers-sr upscale --model` takes by name.

A released model is downloaded and converted the first time it is used, into the folder of the Hub's cache. Its size is
measured on the disk once it is here. Below the table is how the models are obtained that cannot be downloaded by name.
"""

UNKNOWN = "?"


def add_parser(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser(
        "models",
        help="list the models that have a name",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument(
        "--sizes", action="store_true", help="ask the Hub how much has to be downloaded for those that are not here"
    )


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr models`."""
    header = ("NAME", "METHOD", "BASE", "STATE", "SIZE", "LICENCE")
    rows = [
        header,
        *map(_embedded, embedded_models()),
        *(_released(name, options.sizes) for name in RELEASED),
        *map(_elsewhere, ELSEWHERE),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for name in ELSEWHERE:
        print(f"\n{by_hand(name)}")
    return 0


def _embedded(name: str) -> tuple[str, ...]:
    """Describe a model that is part of the package, under its licence."""
    index = json.loads((MODELS / name / "model_index.json").read_text(encoding="utf-8"))
    method = next(method for method, path in METHODS.items() if path.endswith(f".{index['_class_name']}"))
    base = BASE if stands_on_base(MODELS / name) else "its own"
    return name, method, base, "in the package", _size(MODELS / name), "apache-2.0"


def _released(name: str, ask: bool) -> tuple[str, ...]:
    """Describe a model that can be downloaded."""
    from ..released.cache import missing_bytes, model_folder
    from ..released.errors import ReleasedModelError, size_text

    model, folder = RELEASED[name], model_folder(name)
    state, size = ("here", _size(folder)) if folder.is_dir() else ("to download", UNKNOWN)
    if ask and not folder.is_dir():
        try:
            size = size_text(missing_bytes(name))
        except ReleasedModelError as error:
            print(f"diffusers-sr: {name}: {mask_credentials(str(error))}", file=sys.stderr)
    return name, model.method, _short(model.base), state, size, model.license


def _elsewhere(name: str) -> tuple[str, ...]:
    """Describe a model that has to be downloaded by hand."""
    model = ELSEWHERE[name]
    return name, model.method, _short(model.base), "convert", UNKNOWN, model.license


def _short(repo: str) -> str:
    return repo.rpartition("/")[2]


def _size(folder: Path) -> str:
    from ..released.errors import size_text

    return size_text(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
