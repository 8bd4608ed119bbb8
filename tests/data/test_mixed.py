"""Samples of two sources: which one an index is from, and that it is a sample of that source."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.mixed import MixedCrops
from tests.data.samples import NEUTRAL, tensor


def crops(folder: Path, color: str, crop_size: int = 32, later: bool = False) -> PhotoCrops:
    path = folder / f"{color}.png"
    Image.new("RGB", (40, 40), color).save(path)
    return PhotoCrops([path], crop_size, degradation=NEUTRAL, sharpen_target=False, degrade_later=later)


def test_a_share_of_the_indices_is_from_the_second_source(tmp_path: Path) -> None:
    red, blue = crops(tmp_path, "red"), crops(tmp_path, "blue")
    mixed = MixedCrops(red, blue, 0.25)
    is_blue = [bool(tensor(mixed[index], "target")[2, 0, 0] == 1) for index in range(400)]
    assert abs(sum(is_blue) / 400 - 0.25) < 0.06
    assert is_blue == [bool(tensor(mixed[index], "target")[2, 0, 0] == 1) for index in range(400)]
    for index in (is_blue.index(True), is_blue.index(False)):
        source = blue if is_blue[index] else red
        for name in ("target", "degraded", "seed"):
            assert torch.equal(tensor(mixed[index], name), tensor(source[index], name))


def test_none_and_all(tmp_path: Path) -> None:
    red, blue = crops(tmp_path, "red"), crops(tmp_path, "blue")
    for share, channel in ((0.0, 0), (1.0, 2)):
        assert all(tensor(MixedCrops(red, blue, share)[index], "target")[channel, 0, 0] == 1 for index in range(20))


def test_sources_that_cannot_be_one_batch(tmp_path: Path) -> None:
    red = crops(tmp_path, "red")
    with pytest.raises(ValueError, match="Crops of 32 and of 16 pixels cannot be one batch"):
        MixedCrops(red, crops(tmp_path, "blue", 16), 0.5)
    with pytest.raises(ValueError, match="use --degradation_device worker"):
        MixedCrops(crops(tmp_path, "blue", later=True), red, 0.5)
