"""The memory of images, which a data loader allocates and frees in large blocks."""

from __future__ import annotations

from functools import cache

import torch


@cache
def keep_freed_memory() -> None:
    """Let the C library keep an image's memory for the next one, which otherwise costs a page fault for every page.

    glibc returns blocks above a threshold to the system when they are freed, and raises the threshold to the largest
    block that was freed so far, up to 32 MiB. (With other C libraries this does nothing.)
    """
    torch.empty(30 << 20, dtype=torch.uint8)
