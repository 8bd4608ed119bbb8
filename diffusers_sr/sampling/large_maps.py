"""Feature maps of whole images, which are kept in main memory or, where that is short, in temporary files."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from diffusers.utils import logging

from .free_memory import free_main_memory

logger = logging.get_logger(__name__)


def new_map(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Make a tensor on the CPU with any values.

    One that would take more than half of the main memory that is free lies in a file of the folder for temporary
    files, which is gone with the tensor. The system writes its pages out when it needs the memory.
    """
    size = math.prod(shape) * dtype.itemsize
    if size > free_main_memory() // 2:
        try:
            stored = _in_file(size)
        except OSError as error:  # there is no room for it on the disk either
            logger.info(f"A feature map of {size / 1e9:.1f} GB is kept in main memory: {error}")
        else:
            logger.info(f"A feature map of {size / 1e9:.1f} GB is kept in {tempfile.gettempdir()}.")
            return stored.view(dtype).view(*shape)
    return torch.empty(tuple(shape), dtype=dtype)


def _in_file(size: int) -> torch.Tensor:
    """Make a tensor of bytes that lie in a file without a name.

    Raises:
        OSError: if the disk is too small.
    """
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):  # a disk that filled up later would end the process
            os.posix_fallocate(file.fileno(), 0, size)
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="w+", shape=(size,)))
