"""Types of options, and the options that several commands share: the device and the type of the weights."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")


def positive_int(text: str) -> int:
    """Read a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def add_device(command: argparse.ArgumentParser) -> None:
    """Add --device and --dtype; `choose_device` and `choose_dtype` read them."""
    command.add_argument("--device", help="cuda, cuda:1, mps or cpu (the first that is available)")
    command.add_argument("--dtype", choices=DTYPES, help="type of the weights (float16 on cuda, otherwise float32)")


def choose_device(parser: argparse.ArgumentParser, name: str | None) -> str:
    """Choose the device of that name, or the best one; exit with status 2 if it is not available."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        return next(kind for kind, there in available.items() if there)
    if not available.get(name.split(":")[0]):
        kinds = ", ".join(kind for kind, there in available.items() if there)
        parser.error(f"argument --device: {name} is not available; this machine has {kinds}")
    return name


def choose_dtype(name: str | None, device: str) -> torch.dtype:
    """Choose the floating-point type of that name, or the one that suits the device."""
    import torch

    if name is None:
        return torch.float16 if device.startswith("cuda") else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype
