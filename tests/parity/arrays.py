"""The numpy files of vectors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch


def read_arrays(
    path: Path, dtype: torch.dtype = torch.float32, names: Iterable[str] | None = None
) -> dict[str, torch.Tensor]:
    """Some arrays of a file, or all, in the order of `names`; floating-point ones in `dtype`."""
    with np.load(path) as stored:
        tensors = {name: torch.from_numpy(stored[name]) for name in (stored.files if names is None else names)}
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The weights `sd.<official name>` of a file that holds inputs too, by their official names, in float32."""
    with np.load(path) as stored:
        names = [name for name in stored.files if name.startswith("sd.")]
    return {name.removeprefix("sd."): tensor for name, tensor in read_arrays(path, names=names).items()}
