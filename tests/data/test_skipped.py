"""Photos that cannot be used: read once, and said once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_sr.data import dataset as dataset_module
from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.lists import list_images
from diffusers_sr.data.photos import read_image
from tests.data.samples import NEUTRAL, tensor


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Six photos, of which the first three are too small for a crop of 32."""
    for number in range(6):
        side = 20 + number if number < 3 else 40
        Image.new("RGB", (side, 40), (10 * number,) * 3).save(tmp_path / f"{number}.png")
    return list_images(tmp_path)


def read_photos(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the names of the photos that are decoded."""
    names: list[str] = []

    def note(file: Path) -> torch.Tensor:
        names.append(file.name)
        return read_image(file)

    monkeypatch.setattr(dataset_module, "read_image", note)
    monkeypatch.setattr(dataset_module, "_MOST_DECODED_BYTES", 0)
    return names


def test_a_photo_that_is_too_small_is_read_once(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = read_photos(monkeypatch)
    crops = PhotoCrops(photos, 32)
    seen = [round(float(tensor(crops[index], "target").mean()) * 25.5) for index in range(36)]
    assert [names.count(f"{number}.png") for number in range(3)] == [1, 1, 1]
    assert len(names) == 36 + 3
    assert crops.skipped == ["0.png", "1.png", "2.png"]
    first, number = caplog.messages
    assert "pixels, smaller than the crop of 32x32. The next photo takes its place. Skipped so far: 1." in first
    assert "--resize_mode resize_crop or resize takes photos of any size" in first
    assert number.startswith("3 of the 6 photos were skipped so far because they or their references are smaller: ")
    assert "--resize_mode" in number
    # A run that goes on elsewhere comes across them in another order, and draws the same.
    resumed = PhotoCrops(photos, 32)
    assert [round(float(tensor(resumed[index], "target").mean()) * 25.5) for index in range(7, 36)] == seen[7:]


def test_a_photo_whose_reference_is_damaged_has_its_turn_with_another(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is read once; photo 3 is skipped only where chance draws this reference."""
    photos[0].write_bytes(b"no image")
    names = read_photos(monkeypatch)
    references = {path.name: {"5.png": 1.0} for path in photos} | {"3.png": {"0.png": 1.0, "4.png": 1.0}}

    def means(crops: PhotoCrops, start: int) -> list[float]:
        return [round(float(tensor(crops[index], "target").mean()) * 25.5) for index in range(start, 30)]

    def crops() -> PhotoCrops:
        return PhotoCrops(photos, 32, references=references, degradation=NEUTRAL, sharpen_target=False)

    whole = means(crops(), 0)
    assert names.count("0.png") == 1
    assert 2 <= whole.count(3) <= 12
    assert means(crops(), 13) == whole[13:], "what was skipped before does not matter"


def test_nothing_that_can_be_used(photos: list[Path]) -> None:
    crops = PhotoCrops(photos[:3], 32)
    with pytest.raises(ValueError, match=r"6 photos in a row cannot be used, the last because \d.png is 2"):
        crops[0]
    with pytest.raises(ValueError, match=r"because they were skipped before, as was logged: .*--resize_mode"):
        crops[1]
