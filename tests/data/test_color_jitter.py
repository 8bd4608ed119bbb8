"""Crops with other colours."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_sr.data.color_jitter import jitter_color, turn_hue
from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_settings import DegradationConfig
from diffusers_sr.data.lists import list_images
from tests.data.samples import generator, tensor


def test_a_third_of_a_turn_exchanges_the_channels() -> None:
    torch.testing.assert_close(
        turn_hue(2 * math.pi / 3, 1) @ torch.tensor([0.9, 0.5, 0.1]), torch.tensor([0.1, 0.9, 0.5])
    )
    torch.testing.assert_close(turn_hue(0, 1), torch.eye(3))


def test_saturation_is_the_distance_from_grey() -> None:
    """Of mean 0.5: 0.4, 0 and -0.4 become twice as much, and nothing."""
    color = torch.tensor([0.9, 0.5, 0.1])
    torch.testing.assert_close(turn_hue(0, 2) @ color, torch.tensor([1.3, 0.5, -0.3]))
    torch.testing.assert_close(turn_hue(1, 0) @ color, torch.full((3,), 0.5))


def test_jitter_covers_the_gamut_evenly() -> None:
    """Of dull green: mean colours reach every octant of the cube, and vary along both chroma axes alike."""
    green = torch.tensor([0.4, 0.5, 0.4])[:, None, None].expand(3, 2, 2)
    jittered = torch.stack([jitter_color(green, generator(seed))[:, 0, 0] for seed in range(2000)])
    assert jittered.min() >= 0 and jittered.max() <= 1
    octants = (jittered > 0.5).int() @ torch.tensor([1, 2, 4], dtype=torch.int32)
    assert torch.bincount(octants, minlength=8).min() > 100
    orange_blue = (jittered @ torch.tensor([1.0, 0.0, -1.0])) / math.sqrt(2)
    magenta_green = (jittered @ torch.tensor([1.0, -2.0, 1.0])) / math.sqrt(6)
    assert orange_blue.std().item() == pytest.approx(magenta_green.std().item(), rel=0.1)


def test_structure_stays(photo: torch.Tensor) -> None:
    """The result is one matrix times the photo plus a shift, where nothing is clipped."""
    dull = 0.5 + 0.05 * (photo - 0.5)
    jittered = next(
        each for seed in range(99) if (each := jitter_color(dull, generator(seed))).min() > 0 and each.max() < 1
    )
    pixels = torch.cat([dull.flatten(1), torch.ones(1, dull[0].numel())])
    fitted = torch.linalg.lstsq(pixels.T.double(), jittered.flatten(1).T.double()).solution
    torch.testing.assert_close((pixels.T.double() @ fitted).float(), jittered.flatten(1).T, atol=1e-5, rtol=0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path


def test_a_share_of_the_crops_is_jittered(photos: Path) -> None:
    paths = list_images(photos)
    pixels = torch.from_numpy(np.asarray(Image.open(paths[0])).copy()).permute(2, 0, 1).float() / 255
    colors = {tuple(color) for color in (255 * pixels).round().flatten(1).T.tolist()}

    def share(color_jitter: float) -> float:
        crops = PhotoCrops(paths, 8, color_jitter=color_jitter)
        kept = [
            tuple((255 * tensor(crops[index], "target")[:, 0, 0]).round().tolist()) in colors for index in range(100)
        ]
        return 1 - sum(kept) / len(kept)

    assert share(0.0) == 0
    assert share(0.5) == pytest.approx(0.5, abs=0.12)
    assert share(1.0) > 0.95


def test_crops_are_jittered_before_they_are_degraded(photos: Path) -> None:
    sample = PhotoCrops(
        list_images(photos), 32, degradation=DegradationConfig(), sharpen_target=False, color_jitter=1.0
    )[0]
    difference = tensor(sample, "target").mean((1, 2)) - tensor(sample, "degraded").mean((1, 2))
    assert difference.abs().max() < 0.05
