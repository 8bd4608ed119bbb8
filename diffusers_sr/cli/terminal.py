"""The text that a user reads while a command runs, and what stays off the terminal."""

from __future__ import annotations

import sys
from pathlib import Path


def report(path: Path, reason: str) -> None:
    """Print in one line what is wrong with a file, or what the user should know about it."""
    print(f"{path}: {' '.join(reason.split())}", file=sys.stderr)


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that memory ran out, on any device."""
    import torch

    # CUDA has a class for it; other devices only say so in the message.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error)


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
