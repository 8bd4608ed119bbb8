"""The table of what tiles take."""

from __future__ import annotations

import torch

from benchmarks.tile_memory import Case
from benchmarks.training_memory import Computed
from diffusers_sr.hub import METHODS
from diffusers_sr.sampling.memory_table import BYTES_PER_LATENT, BYTES_PER_PIXEL


def test_every_method_has_rows_for_the_small_and_the_published_models():
    names = {path.rpartition(".")[2] for path in METHODS.values()}
    assert set(BYTES_PER_LATENT) == {(name, width) for name in names for width in (64, 320)}
    assert set(BYTES_PER_PIXEL) == {("AutoencoderDC", 16), ("AutoencoderKL", 32), ("AutoencoderKL", 128)}


def test_a_row_is_what_a_step_takes():
    """At a quarter of the side that it was written for: what a step takes is in proportion to the tile."""
    side = 32
    measured = Case("one_step", "small", torch.float32, Computed()).step(side) / side**2
    row = BYTES_PER_LATENT["OneStepPipeline", 64]["float32"]
    assert row == 3072
    assert abs(measured / row - 1) < 0.05
