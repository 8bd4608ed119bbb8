"""Where an image's prompts are from: a language model, files, or measurements."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import choose_dtype
from .terminal import quiet_libraries

if TYPE_CHECKING:
    from ..xpsr.captioner import Captioner
    from ..xpsr.prompts import ImagePrompts

MEASURED = "measured"
CAPTIONER_HELP = (
    f"folder or Hub id of an image-text-to-text model, or `{MEASURED}`: by what can be measured, without one"
)


class CaptionerError(Exception):
    """A captioner cannot be loaded, with which no image can be done."""


def add_prompts_or_captioner(group: argparse._ArgumentGroup) -> None:
    """Add --prompts and --captioner, of which one can be given."""
    exclusive = group.add_mutually_exclusive_group()
    exclusive.add_argument(
        "--prompts", type=Path, metavar="DIR", help="folder with prompts of every image, as `caption` writes it"
    )
    exclusive.add_argument("--captioner", metavar="MODEL", help=f"what describes the images: {CAPTIONER_HELP}")


def load_captioner(model: str, device: str, dtype: str | None, **arguments: Any) -> Captioner:
    """Load the language model that describes images; `arguments` are further ones of a `Captioner`.

    Raises:
        CaptionerError: if it cannot be loaded.
    """
    quiet_libraries()
    from ..xpsr.captioner import Captioner

    try:
        return Captioner.from_pretrained(model, device, choose_dtype(dtype, device), **arguments)
    except (ImportError, OSError, ValueError) as error:
        raise CaptionerError(str(error)) from error


def prompts_of(image: Path, prompts: Path) -> Callable[[Any], list[ImagePrompts]]:
    """Make a captioner that reads what it says of one image file from a folder of prompts."""
    from ..xpsr.prompts import read_prompts

    return lambda _: read_prompts(prompts, [image])
