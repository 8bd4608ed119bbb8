"""The options for which files are read, and which are written."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..image.formats import FORMATS, HAS_QUALITY, WRITABLE
from ..image.outputs import Naming, Plan, comparison_of, plan_outputs


def add_file_options(command: argparse.ArgumentParser) -> None:
    """Add the inputs, the output, and the options for them."""
    command.add_argument("input", nargs="+", type=Path, metavar="INPUT", help="image files and folders of images")
    command.add_argument("-o", "--output", required=True, type=Path, help="image file or folder to write")
    command.add_argument(
        "--recursive", action="store_true", help="search the folders in folders, too, and mirror them under OUTPUT"
    )
    command.add_argument("--skip-existing", action="store_true", help="keep existing results, to resume a folder")
    command.add_argument(
        "--suffix",
        type=_suffix,
        default="",
        metavar="TEXT",
        help="what is added to the names of results in a folder: _x4 for photo_x4.png (nothing)",
    )
    command.add_argument(
        "--format", choices=FORMATS, help="format of the results in a folder (that of the input, if it can be written)"
    )
    command.add_argument(
        "--quality",
        type=_quality,
        metavar="N",
        help="quality of results in JPEG, WebP and AVIF, from 1 to 100 (95; 90 for AVIF)",
    )
    command.add_argument(
        "--strip-metadata",
        action="store_true",
        help="write neither what came with the photo nor the settings; its colour profile is kept",
    )
    command.add_argument(
        "--compare",
        action="store_true",
        help="also write photo_compare.png, with the photo (enlarged bicubically) on the left and the result on the "
        "right",
    )


def check_quality(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with status 2 if a quality is given for a format that has none."""
    suffix = options.output.suffix.lower() if options.format is None else f".{options.format}"
    names_a_file = options.format is not None or not options.output.is_dir()
    if options.quality is not None and names_a_file and suffix in WRITABLE and WRITABLE[suffix][0] not in HAS_QUALITY:
        parser.error(f"argument --quality: {suffix} has no quality; JPEG, WebP and AVIF have")


def plan(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Plan:
    """Plan which file goes where; exit with status 2 if it makes no sense, or this Pillow lacks a format."""
    from ..image.writer import can_write

    naming = Naming(options.suffix, options.format, options.compare)
    try:
        planned = plan_outputs(options.input, options.output, naming, options.recursive, options.skip_existing)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for suffix in sorted({target.suffix for _, target in planned.outputs}):
        if not can_write(suffix):
            parser.error(f"this Pillow cannot write {suffix} files: install Pillow 11.3 or later, or choose .png")
    return planned


def is_done(options: argparse.Namespace, target: Path) -> bool:
    """Whether the files of a result exist."""
    files = [target, comparison_of(target)] if options.compare else [target]
    return all(map(os.path.exists, files))


def _suffix(text: str) -> str:
    if any(letter in text for letter in "/\\\0"):
        raise argparse.ArgumentTypeError(f"{text!r} is not part of a file's name")
    return text


def _quality(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 100")
    return value
