"""Training on references that were made ahead: each belongs to one crop, and none is taken for another's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_settings import PISA, DegradationConfig
from diffusers_sr.data.lists import list_images
from diffusers_sr.data.made_references import CropsWithReferences, crop_settings, reference_path, write_settings
from diffusers_sr.data.photos import PhotoFiles
from diffusers_sr.training.photos import folder_photos
from tests.data.samples import tensor
from tests.training.runs import write_noise_photos


def crops(folder: Path, **options: Any) -> PhotoCrops:
    return PhotoCrops(list_images(folder / "photos"), 32, degradation=DegradationConfig(), **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_noise_photos(tmp_path / "photos", 2, 40)
    write_settings(tmp_path / "made", crop_settings(crops(tmp_path), 3))
    for index in range(3):
        Image.new("RGB", (32, 32), (index * 51, 0, 255)).save(reference_path(tmp_path / "made", index))
    return tmp_path


def test_crops_come_again_with_their_references_and_other_noise(folder: Path) -> None:
    plain, dataset = crops(folder), CropsWithReferences(crops(folder), folder / "made")
    for index in (1, 4):
        sample = dataset[index]
        assert torch.equal(tensor(sample, "target"), tensor(plain[1], "target"))
        assert torch.equal(tensor(sample, "degraded"), tensor(plain[1], "degraded"))
        assert tensor(sample, "reference").shape == (3, 32, 32)
        assert tensor(sample, "reference")[:, 0, 0].tolist() == pytest.approx([51 / 255, 0, 1])
    assert torch.equal(tensor(dataset[4], "seed"), tensor(dataset[4], "seed"))
    assert dataset[4]["seed"] != dataset[1]["seed"]


def test_references_of_other_crops_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"seed 0 instead of 1.*other"):
        CropsWithReferences(crops(folder, seed=1), folder / "made")
    other = PhotoCrops(list_images(folder / "photos")[:1], 32, degradation=DegradationConfig())
    with pytest.raises(ValueError, match="with other photos: give"):
        CropsWithReferences(other, folder / "made")
    with pytest.raises(ValueError, match="sharpen_target True instead of False"):
        write_settings(folder / "made", crop_settings(crops(folder, sharpen_target=False), 3))
    assert json.loads((folder / "made/crops.json").read_text())["sharpen_target"] is True
    write_settings(folder / "made", crop_settings(crops(folder), 3))
    with pytest.raises(ValueError, match="resize_mode 'crop' instead of 'resize'"):
        CropsWithReferences(crops(folder, resize_mode="resize"), folder / "made")
    milder = PhotoCrops(list_images(folder / "photos"), 32, degradation=PISA)
    with pytest.raises(ValueError, match="with another degradation: give"):
        CropsWithReferences(milder, folder / "made")
    photos = folder_photos([str(folder / "photos")], None, weights=[2])
    with pytest.raises(ValueError, match="with other weights of the folders: give"):
        CropsWithReferences(PhotoCrops(photos, 32, degradation=DegradationConfig()), folder / "made")


def test_references_of_earlier_versions_are_of_cropped_photos_with_seesrs_degradation(folder: Path) -> None:
    path = folder / "made/crops.json"
    earlier = json.loads(path.read_text())
    for name in ("degradation", "resize_mode", "weights"):
        del earlier[name]
    path.write_text(json.dumps(earlier))
    assert CropsWithReferences(crops(folder), folder / "made").count == 3
    with pytest.raises(ValueError, match="another degradation"):
        CropsWithReferences(PhotoCrops(list_images(folder / "photos"), 32, degradation=PISA), folder / "made")


def test_references_do_not_fit_crops_that_are_degraded_elsewhere(folder: Path) -> None:
    with pytest.raises(ValueError, match="--degradation_device worker"):
        CropsWithReferences(crops(folder, degrade_later=True), folder / "made")


def test_references_do_not_fit_the_users_own_pairs(folder: Path) -> None:
    photos = list_images(folder / "photos")
    (folder / "small").mkdir()
    for path in photos:
        Image.new("RGB", (10, 10)).save(folder / "small" / path.name)
    pairs = PhotoCrops(PhotoFiles(photos, list_images(folder / "small")), 32, degradation=DegradationConfig())
    with pytest.raises(ValueError, match="leave out --train_lr_dir"):
        CropsWithReferences(pairs, folder / "made")


def test_missing_references_are_said(folder: Path) -> None:
    reference_path(folder / "made", 2).unlink()
    with pytest.raises(ValueError, match=r"1 of 3 references are not in .*00000002.png"):
        CropsWithReferences(crops(folder), folder / "made")
    with pytest.raises(ValueError, match="make_references"):
        CropsWithReferences(crops(folder), folder / "photos")
