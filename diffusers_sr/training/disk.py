"""The disk that a run needs, said before it begins."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from .arguments import TrainingArguments

logger = logging.getLogger(__name__)


def checkpoint_bytes(parameters: Iterable[nn.Parameter], arguments: TrainingArguments) -> int:
    """Compute the size of a checkpoint: the trained weights, AdamW's two states of each, and their average."""
    parameters = [*parameters]
    weights = sum(parameter.nbytes for parameter in parameters)
    states = 2 * sum(parameter.numel() for parameter in parameters) * (1 if arguments.use_8bit_adam else 4)
    return weights + states + (weights if arguments.ema_decay else 0)


def say_disk(parameters: Iterable[nn.Parameter], arguments: TrainingArguments) -> str:
    """Say what a run writes, and what is free; warn if that is less.

    There is one checkpoint more than are kept until the oldest is removed. The result, with its frozen models, comes
    on top.
    """
    each = checkpoint_bytes(parameters, arguments)
    count = arguments.checkpoints_total_limit + 1
    free = shutil.disk_usage(Path(arguments.output_dir)).free
    if free < count * each:
        logger.warning(
            "%s has %s free, but %d checkpoints take %s: free some, or give another --output_dir or a lower "
            "--checkpoints_total_limit.",
            arguments.output_dir,
            size(free),
            count,
            size(count * each),
        )
    return f"disk: up to {count} checkpoints of {size(each)}, and the result; {size(free)} are free"


def size(number: int) -> str:
    """Write a number of bytes in the unit that suits it."""
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if number >= length:
            return f"{number / length:.1f} {unit}"
    return f"{number / 1e3:.1f} kB"
