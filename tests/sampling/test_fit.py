"""The size of tiles for the memory that is free."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diffusers_sr.sampling import fit
from diffusers_sr.sampling.fit import _images, largest_tile
from tests.pipeline.tiny import built

GIB = 2**30


@pytest.mark.parametrize(
    ("most", "free", "bytes_per_pixel", "unit", "side"),
    [
        (768, 8 * GIB, 1000, 8, 768),
        (768, 768 * 768 * 1000 / 0.6 + 1e4, 1000, 8, 768),
        (768, 768 * 768 * 1000 / 0.6 - 1e4, 1000, 8, 704),
        (768, GIB, 3000, 8, 448),  # 463 pixels
        (768, 0, 3000, 8, 64),
        (768, -5, 3000, 8, 64),
        (768, GIB, 3000, 12, 384),  # steps of 192
        (48, 0, 3000, 8, 48),
        (500, GIB, 3500, 4, 384),
    ],
)
def test_the_largest_tile_that_fits(most, free, bytes_per_pixel, unit, side):
    assert largest_tile(most, free, bytes_per_pixel, unit) == side


@pytest.mark.parametrize(
    ("image", "number"),
    [
        (None, 1),
        ("photo.png", 1),
        ([None] * 3, 3),
        (torch.zeros(3, 8, 8), 1),
        (torch.zeros(5, 3, 8, 8), 5),
        ([np.zeros((8, 8, 3)), torch.zeros(2, 3, 8, 8)], 3),
    ],
)
def test_images_of_a_call(image, number):
    assert _images(image) == number


@pytest.fixture
def table(monkeypatch):
    """Rows that are easy to calculate with, and as much free memory as the test says."""
    rows = {
        ("SeeSRPipeline", 8): {"float32": 4000, "float16": 2000},
        ("SeeSRPipeline", 320): {"float32": 64000, "float16": 32000},
        ("CoSeRPipeline", 320): {"float32": 100000, "float16": 50000},
    }
    monkeypatch.setattr(fit, "BYTES_PER_LATENT", rows)
    monkeypatch.setattr(fit, "BYTES_PER_PIXEL", {("AutoencoderKL", 128): {"float32": 6400, "float16": 3200}})
    state = SimpleNamespace(free=GIB)
    monkeypatch.setattr(fit, "free_memory", lambda device: state.free)
    return state


def like(pipeline: str, width: int, dtype: torch.dtype) -> object:
    """A pipeline as far as the table is asked for it."""
    unet: Any = nn.Linear(1, 1).to(dtype)
    unet.config = {"block_out_channels": (width, 640)}
    return type(pipeline, (), {"unet": unet})()


@pytest.mark.parametrize(
    ("pipeline", "width", "dtype", "expected"),
    [
        ("SeeSRPipeline", 320, torch.float32, 64000),
        ("SeeSRPipeline", 320, torch.bfloat16, 32000),
        ("SeeSRPipeline", 320, torch.float64, 128000),
        ("SeeSRPipeline", 160, torch.float16, 16000),
        ("SeeSRPipeline", 16, torch.float32, 8000),
        ("Other", 320, torch.float32, 100000),
    ],
)
def test_what_the_table_says(table, pipeline, width, dtype, expected):
    assert fit.bytes_per_latent(like(pipeline, width, dtype)) == expected


def test_a_call_gets_numbers(table):
    pipeline = built("seesr")
    own = pipeline.config.call_defaults
    assert (own["tile_size"], own["tile_overlap"]) == (768, 32)
    call = pipeline.check_inputs(image=None, tile_size="auto", vae_tile_size="auto")
    assert (call.tile_size, call.tile_overlap, call.vae_tile_size) == (768, 32, 768)
    table.free = 43_008_000  # 60 % of it are enough for 642² pixels of 62.5 bytes, and for 253² of 400
    call = pipeline.check_inputs(image=None, tile_size="auto")
    assert (call.tile_size, call.tile_overlap, call.vae_tile_size) == (640, 24, 768)
    four = pipeline.check_inputs(image=[None, None], num_images_per_prompt=2, tile_size="auto")
    assert (four.tile_size, four.tile_overlap, four.vae_tile_size) == (320, 8, 768)
    assert pipeline.check_inputs(image=None, vae_tile_size="auto").vae_tile_size == 192
    assert pipeline.check_inputs(image=None).tile_size == 768


def test_a_model_has_a_number(table):
    pipeline = built("seesr")
    with pytest.raises(ValueError, match="tile_size='auto' is for a call: give the model's own size as a number"):
        type(pipeline).check_options({"call_defaults": {"tile_size": "auto"}})
    with pytest.raises(ValueError, match="vae_tile_size='big', expected a whole number from 1 upwards"):
        replace(pipeline.check_inputs(image=None), vae_tile_size="big")


def test_weights_that_are_still_to_come_need_room_too():
    model: Any = nn.Linear(1000, 1000, bias=False)
    there = torch.device("meta")
    assert fit._left(5_000_000, [model], there) == 5_000_000
    model._hf_hook = object()
    assert fit._left(5_000_000, [model], there) == 1_000_000
    assert fit._left(5_000_000, [model], torch.device("cpu")) == 5_000_000
