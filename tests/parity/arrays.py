"""The numpy files of vectors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]

WEIGHT = "sd."  # what the names of weights begin with, in a file that holds inputs too


def array_names(path: Path) -> set[str]:
    with np.load(path) as stored:
        return set(stored.files)


def weight_names(path: Path) -> set[str]:
    """The official names of the weights in a file."""
    return {name.removeprefix(WEIGHT) for name in array_names(path) if name.startswith(WEIGHT)}


def read_arrays(path: Path, dtype: torch.dtype = torch.float32, names: Iterable[str] | None = None) -> Tensors:
    """Some arrays of a file, or all, in the order of `names`; floating-point ones in `dtype`."""
    with np.load(path) as stored:
        tensors = {name: torch.from_numpy(stored[name]) for name in (stored.files if names is None else names)}
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def read_state_dict(path: Path, dtype: torch.dtype = torch.float32) -> Tensors:
    """The weights `sd.<official name>` of a file that holds inputs too, by their official names."""
    names = sorted(weight_names(path))
    return dict(zip(names, read_arrays(path, dtype, [WEIGHT + name for name in names]).values(), strict=True))
