"""Random numbers that belong to a sample, whoever draws them and when."""

from __future__ import annotations

import random

import torch


def sample_generator(seed: int, purpose: int | str) -> torch.Generator:
    """Make a CPU generator for one purpose under a seed: sample `purpose` of a run, or one draw of a sample."""
    # Python hashes the text, so that neighbouring seeds and samples have nothing in common.
    return torch.Generator().manual_seed(random.Random(f"{seed}/{purpose}").getrandbits(32))
