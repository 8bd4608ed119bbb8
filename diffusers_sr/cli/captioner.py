"""The source of an image's prompts: a language model, files, or measurements."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import choose_dtype
from .terminal import quiet_libraries

if TYPE_CHECKING:
    from ..xpsr.captioner import Captioner
    from ..xpsr.prompts import ImagePrompts

MEASURED = "measured"
CAPTIONER_HELP = (
    f"folder or Hub id of an image-text-to-text model, or `{MEASURED}` for what can be measured without one"
)


class CaptionerError(Exception):
    """A captioner that cannot be loaded, so that no image can be processed."""


def add_prompts_or_captioner(group: argparse._ArgumentGroup) -> None:
    """Add --prompts and --captioner, which exclude each other."""
    exclusive = group.add_mutually_exclusive_group()
    exclusive.add_argument(
        "--prompts", type=Path, metavar="DIR", help="folder with prompts for every image, as `caption` writes it"
    )
    exclusive.add_argument("--captioner", metavar="MODEL", help=f"model that describes the images: {CAPTIONER_HELP}")


def load_captioner(model: str, device: str, dtype: str | None, **arguments: Any) -> Captioner:
    """Load the language model that describes images; `arguments` are further arguments of `Captioner`.

    Raises:
        CaptionerError: if it cannot be loaded.
    """
    quiet_libraries()
    from ..xpsr.captioner import Captioner

    try:
        return Captioner.from_pretrained(model, device, choose_dtype(dtype, device), **arguments)
    except (ImportError, OSError, ValueError) as error:
        raise CaptionerError(str(error)) from error


def prompts_of(images: Sequence[Path], prompts: Path) -> Callable[[Any], list[ImagePrompts]]:
    """Make a captioner that reads the prompts for these image files from a folder of prompts."""
    from ..xpsr.prompts import read_prompts

    return lambda _: read_prompts(prompts, images)
