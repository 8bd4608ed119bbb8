"""Memory of images, of which a data loader takes and frees a great deal."""

from __future__ import annotations

from functools import cache

import torch


@cache
def keep_freed_memory() -> None:
    """Let the C library keep the memory of images for the next one, where every page of it would cost a fault.

    glibc gives blocks above a threshold back to the system when they are freed, and raises the threshold to the
    largest block that was freed so far, up to 32 MiB. (Elsewhere this does nothing.)
    """
    torch.empty(30 << 20, dtype=torch.uint8)
