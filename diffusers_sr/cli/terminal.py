"""The text that a user reads while a command runs, and what stays off the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..image.names import printable
from .options import positive_int


def report(path: Path, reason: str) -> None:
    """Print in one line what is wrong with a file, or what the user should know about it."""
    from tqdm import tqdm

    tqdm.write(f"{printable(path)}: {on_one_line(reason)}", file=sys.stderr)  # above the bars that are shown


def on_one_line(text: str) -> str:
    """Replace line breaks and runs of spaces in a text by single spaces."""
    return " ".join(text.split())


def limit_pixels(most: int | None) -> None:
    """Set how many pixels an image may have that is read; by default, Pillow's limit stays."""
    if most is not None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = most / 2  # type: ignore[assignment]  # Pillow refuses more than twice as many


def add_max_pixels(command: argparse.ArgumentParser) -> None:
    """Add --max-pixels."""
    command.add_argument(
        "--max-pixels",
        type=positive_int,
        metavar="N",
        help="refuse to read images of more pixels, which could fill the memory (Pillow's limit, 178956970)",
    )


def quiet_libraries() -> None:
    """Keep the libraries' messages and progress off the terminal while loading; that of images and downloads stays."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not in its `__all__`
        are_progress_bars_disabled,
        enable_progress_bars,
    )
    from transformers.utils import logging as transformers_logging

    downloads_are_shown = not are_progress_bars_disabled()
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    if downloads_are_shown:  # transformers hides them with its own
        enable_progress_bars()
