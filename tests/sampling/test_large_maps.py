"""Feature maps that do not fit into main memory."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest
import torch

from diffusers_sr.sampling import large_maps
from diffusers_sr.sampling.autoencoder import encode_image
from diffusers_sr.sampling.large_maps import new_map
from tests.components import tiny_vae


@pytest.fixture
def short_of_memory(monkeypatch, tmp_path):
    """No main memory is free; the names of the maps that were made in files."""
    made: list[int] = []
    in_file = large_maps._in_file

    def counted(size):
        stored = in_file(size)
        made.append(size)
        return stored

    monkeypatch.setattr(large_maps, "free_main_memory", lambda: 0)
    monkeypatch.setattr(large_maps, "_in_file", counted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_map_in_a_file_is_a_tensor_like_any_other(short_of_memory, tmp_path, dtype):
    values = torch.rand(2, 3, 5, 7).to(dtype)
    stored = new_map(values.shape, dtype)
    stored[..., 1:, :] = values[..., 1:, :]
    stored[..., :1, :].copy_(values[..., :1, :])
    assert torch.equal(stored, values) and stored.dtype == dtype
    assert short_of_memory == [values.nbytes]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_main_memory(short_of_memory, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert new_map((2, 3), torch.float32).shape == (2, 3)
    assert not short_of_memory


def test_small_maps_stay_in_memory(short_of_memory, monkeypatch):
    monkeypatch.setattr(large_maps, "free_main_memory", lambda: 48)
    new_map((2, 3), torch.float32)
    assert not short_of_memory
    new_map((2, 4), torch.float32)
    assert short_of_memory == [32]


@torch.no_grad()
def test_bands_give_the_same(request):
    vae, image = tiny_vae().eval(), torch.rand(1, 3, 48, 40)
    expected = encode_image(vae, image, 32, 8)
    made = request.getfixturevalue("short_of_memory")
    assert torch.equal(encode_image(vae, image, 32, 8), expected)
    assert made
