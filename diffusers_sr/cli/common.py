"""What the commands share: the device they run on, the captioner they load, and how they report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..xpsr.captioner import Captioner


class CaptionerError(Exception):
    """A captioner cannot be loaded, with which no image can be done."""


def choose_device(parser: argparse.ArgumentParser, name: str | None) -> str:
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        return next(kind for kind, there in available.items() if there)
    if not available.get(name.split(":")[0]):
        kinds = ", ".join(kind for kind, there in available.items() if there)
        parser.error(f"argument --device: {name} is not there; this machine has {kinds}")
    return name


def default_dtype(device: str) -> str:
    return "float16" if device.startswith("cuda") else "float32"


def load_captioner(model: str, device: str, dtype: str | None, **arguments: Any) -> Captioner:
    """The language model that describes images; `arguments` are further ones of a `Captioner`.

    Raises:
        CaptionerError: If it cannot be loaded.
    """
    import torch

    quiet_libraries()
    from ..xpsr.captioner import Captioner

    try:
        return Captioner.from_pretrained(model, device, getattr(torch, dtype or default_dtype(device)), **arguments)
    except (ImportError, OSError, ValueError) as error:
        raise CaptionerError(str(error)) from error


def is_out_of_memory(error: Exception) -> bool:
    import torch

    # CUDA has a class for it; the other devices say it in words only.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error)


def quiet_libraries() -> None:
    """Leave the terminal to the progress of images and of downloads: what libraries say and count while loading."""
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


def report(path: Path, reason: str) -> None:
    print(f"{path}: {' '.join(reason.split())}", file=sys.stderr)
