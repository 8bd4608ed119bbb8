"""How photos become squares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.lists import list_images
from diffusers_sr.data.photos import PhotoFiles
from diffusers_sr.data.squares import TooSmallError, fit
from tests.data.samples import tensor


def columns(height: int, width: int, value: float) -> torch.Tensor:
    """Make a photo whose columns have the values 0, value, 2 value, ..., rounded down."""
    line = (torch.arange(width) * value).floor().to(torch.uint8)
    return line.expand(3, height, width).contiguous()


def test_large_photos_are_cropped_as_they_are() -> None:
    photo = columns(40, 32, 1)
    assert fit(photo, 32, "crop") is photo
    with pytest.raises(TooSmallError, match="is 32x40 pixels, smaller than the crop of 33x33"):
        fit(photo, 33, "crop")


@pytest.mark.parametrize(("height", "width"), [(8, 24), (100, 60)])
def test_resizing_stretches_the_whole_photo(height: int, width: int) -> None:
    """Black left of the middle and white right of it, whatever the proportions."""
    photo = columns(height, width, 2 / width).clamp(0, 1) * 255
    square = fit(photo, 32, "resize")
    assert square.shape == (3, 32, 32)
    assert square[:, :, :8].max() == 0 and square[:, :, 24:].min() == 255


def test_the_centre_is_taken_of_a_photo_that_is_halved_by_averaging() -> None:
    """Two halvings of 256x128 pixels average blocks of 4x4; of 64x32 pixels columns 16 to 47 are the centre."""
    square = fit(columns(128, 256, 1 / 4), 32, "resize_crop")
    assert square.shape == (3, 32, 32)
    assert square[0, 5].tolist() == list(range(16, 48))
    assert fit(columns(128, 256, 1 / 4).mT, 32, "resize_crop")[0, :, 5].tolist() == list(range(16, 48))


def test_small_photos_are_enlarged_without_losing_their_proportions() -> None:
    """Of 20x16 pixels twice as large, columns 4 to 35: column 10 of 40 is at 4.75 of 20, where a slope of 8 has 38."""
    square = fit(columns(16, 20, 8), 32, "resize_crop")
    assert square.shape == (3, 32, 32)
    assert square[1, 9, 6] == 38 and square[1, 9, 7] == 42


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Photos of one colour each, too small for a crop of 32."""
    for number, size in enumerate(((20, 40), (31, 31), (50, 9))):
        Image.new("RGB", size, (10 * number,) * 3).save(tmp_path / f"{number}.png")
    return list_images(tmp_path)


@pytest.mark.parametrize("resize_mode", ["resize", "resize_crop"])
def test_photos_of_any_size_can_be_trained_on(photos: list[Path], resize_mode: str) -> None:
    crops = PhotoCrops(photos, 32, resize_mode=resize_mode)
    values = [tensor(crops[index], "target").unique() * 255 for index in range(3)]
    assert sorted(int(value.round()) for value in values) == [0, 10, 20]
    assert crops.skipped == []


def test_what_cannot_be_resized_is_refused(photos: list[Path]) -> None:
    with pytest.raises(ValueError, match="resize_mode='pad': it has to be one of crop, resize, resize_crop"):
        PhotoCrops(photos, 32, resize_mode="pad")
    with pytest.raises(ValueError, match="low-resolution versions are not resized: leave out --resize_mode resize"):
        PhotoCrops(PhotoFiles(photos, photos), 32, resize_mode="resize")
