"""Samples of runs that are resumed have to be those of the runs that began them: pinned."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_settings import DegradationConfig
from diffusers_sr.data.lists import list_images
from tests.data.samples import tensor

# For each sample: number of the photo, first row, first column, whether it is flipped.
CROPS = [(2, 3, 27, True), (1, 5, 4, False), (0, 1, 38, True), (2, 8, 41, True), (0, 21, 46, False), (1, 18, 8, False)]
SEEDS = [
    691840213202198580,
    861017074243708046,
    2256673984390273042,
    169695004257209071,
    2662812480262206980,
    747626216889673266,
]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three photos whose pixels say where they are: row, column, number of the photo."""
    for number, (height, width) in enumerate(((60, 80), (50, 40), (40, 90))):
        rows, columns = np.mgrid[:height, :width]
        pixels = np.stack([rows, columns, np.full_like(rows, number)], 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
    return list_images(tmp_path)


def place(target: torch.Tensor) -> tuple[int, int, int, bool]:
    row, column, number = (target[:, 0, 0] * 255).round().int().tolist()
    is_flipped = bool(target[1, 0, 1] < target[1, 0, 0])
    return number, row, column - 31 if is_flipped else column, is_flipped


def test_photos_places_flips_and_seeds_are_those_of_before(photos: list[Path]) -> None:
    crops = PhotoCrops(photos, 32, seed=7, degradation=DegradationConfig(), sharpen_target=False)
    samples = [crops[index] for index in range(6)]
    assert [place(tensor(sample, "target")) for sample in samples] == CROPS
    assert [int(tensor(sample, "seed")) for sample in samples] == SEEDS
