"""Images to take textures from, for the pipelines that take references."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import PIL.Image


def add_reference(group: argparse._ArgumentGroup) -> None:
    """Add --reference."""
    group.add_argument(
        "--reference",
        action="append",
        type=Path,
        metavar="FILE",
        help="image to take textures from, instead of a generated one, for all images; repeat it for several",
    )


def read_references(parser: argparse.ArgumentParser, paths: list[Path]) -> list[PIL.Image.Image]:
    """Read the files; exit with status 2 if one cannot be read."""
    from ..image.decoding import ImageFileError
    from ..image.reader import read_photo
    from ..image.transparency import under_transparency

    references = []
    for path in paths:
        try:
            photo = read_photo(path)
            references.append(photo.image if photo.alpha is None else under_transparency(photo.image, photo.alpha))
        except ImageFileError as error:
            parser.error(f"argument --reference: {path}: {error}")
    return references
