"""How a run may be broken off, and what its checkpoints are compared by."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusers_sr.training.checkpointing import MANIFEST

resource = pytest.importorskip("resource")  # of POSIX systems


class Killed(BaseException):
    """In the place of a process that is gone from one moment to the next."""


def kill_at(batch: int) -> Callable[[int], None]:
    def before_batch(number: int) -> None:
        if number == batch:
            raise Killed

    return before_batch


def sigterm_at(batch: int) -> Callable[[int], None]:
    return lambda number: os.kill(os.getpid(), signal.SIGTERM) if number == batch else None


def draw_everywhere(number: int) -> None:
    """As a step may that draws from Python's and numpy's generators."""
    random.random()
    np.random.rand()


def state(checkpoint: Path) -> dict[str, Any]:
    """Everything that is in a checkpoint: weights, optimizer, schedule, average, random states."""
    return {
        path.name: load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=False)
        for path in checkpoint.iterdir()
        if path.name != MANIFEST
    }


def assert_same(a: Any, b: Any) -> None:
    """Equal bit by bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    elif isinstance(a, (torch.Tensor, np.ndarray)):
        assert bool((a == b).all())
    else:
        assert a == b


def disk_full_between(first: int, last: int, size: int = 8192, after: Path | None = None) -> Callable[[int], None]:
    """No file can grow beyond `size` bytes from batch `first` to before batch `last`, as on a full disk.

    Args:
        after: a checkpoint that has to be complete before, which it otherwise may not be.
    """
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def before_batch(number: int) -> None:
        if number == first:
            while after is not None and not after.exists():
                time.sleep(0.001)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        if number == last:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    return before_batch
