from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from diffusers_sr.data.dataset import PhotoCrops, list_images, listed_names, read_tags, sample_generator, split_tags
from diffusers_sr.data.degradation import DegradationConfig


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for index in range(3):
        pixels = random.integers(0, 256, (48, 56 + index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photo_{index}.png")
    return tmp_path


def test_lists_images_sorted_and_only_images(photos: Path) -> None:
    (photos / "notes.txt").write_text("no image")
    assert [path.name for path in list_images(photos)] == ["photo_0.png", "photo_1.png", "photo_2.png"]


def test_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No image found"):
        list_images(tmp_path)


def test_samples_do_not_depend_on_the_number_of_workers(photos: Path) -> None:
    dataset = Subset(PhotoCrops(list_images(photos), 32, seed=5, degradation=DegradationConfig()), range(6))
    alone, shared = (list(DataLoader(dataset, batch_size=2, num_workers=workers)) for workers in (0, 2))
    assert len({batch["target"].sum().item() for batch in alone}) == 3, "the batches differ from each other"
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a["target"], b["target"])
        assert torch.equal(a["degraded"], b["degraded"])
        assert torch.equal(a["seed"], b["seed"])


def test_another_seed_gives_other_samples(photos: Path) -> None:
    a, b = (PhotoCrops(list_images(photos), 32, seed=seed)[0]["target"] for seed in (0, 1))
    assert not torch.equal(a, b)


def test_a_pass_sees_every_photo_once(photos: Path) -> None:
    tags = {f"photo_{index}.png": str(index) for index in range(3)}
    dataset = PhotoCrops(list_images(photos), 32, tags=tags)
    names = [dataset[index]["tags"] for index in range(9)]
    assert [sorted(names[start : start + 3]) for start in (0, 3, 6)] == [["0", "1", "2"]] * 3
    assert len({tuple(names[start : start + 3]) for start in (0, 3, 6)}) > 1, "passes are permuted"


def test_shapes_and_sharpening(photos: Path) -> None:
    paths = list_images(photos)
    plain = PhotoCrops(paths, 32, degradation=DegradationConfig(), sharpen_target=False)[0]
    sharpened = PhotoCrops(paths, 32, degradation=DegradationConfig())[0]
    assert plain["degraded"].shape == sharpened["degraded"].shape == (3, 8, 8)
    assert torch.equal(plain["target"], PhotoCrops(paths, 32)[0]["target"])
    assert not torch.equal(plain["target"], sharpened["target"])


def test_photo_smaller_than_the_crop_is_named(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"photo_\d\.png is \d+x48 pixels, smaller than the crop of 64x64"):
        PhotoCrops(list_images(photos), 64)[0]


def test_tags_file_needs_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    path.write_text('file,tags\na.png,"sky, sea"\n')
    assert read_tags(path) == {"a.png": "sky, sea"}
    path.write_text("name,tags\na.png,sky\n")
    with pytest.raises(ValueError, match="needs 'file' and 'tags'"):
        read_tags(path)


def test_tags_are_split_at_commas() -> None:
    assert split_tags("sky,sea , red door,") == ["sky", "sea", "red door"]
    assert split_tags("") == []


def test_listed_names_may_hold_spaces_and_have_to_exist(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("a b.png\n")
    assert listed_names(listed, [Path("photos/a b.png"), Path("photos/c.png")]) == {"a b.png"}
    with pytest.raises(ValueError, match=r"not in the folder: \['a b.png'\]"):
        listed_names(listed, [Path("photos/c.png")])


def test_generators_of_neighbouring_seeds_differ() -> None:
    firsts = [torch.rand((), generator=sample_generator(seed, index)) for seed in range(4) for index in range(100)]
    assert len({float(first) for first in firsts}) == 400
