"""Photos of several folders, and of linked ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.lists import list_images, training_photos
from diffusers_sr.training.photos import folder_photos
from tests.data.samples import tensor


def write(folder: Path, *values: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for value in values:
        Image.new("RGB", (16, 16), (value, 0, 0)).save(folder / f"{value}.png")
    return folder


def value_of(sample: dict[str, torch.Tensor | str]) -> int:
    return round(float(tensor(sample, "target").flatten()[0]) * 255)


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    data, elsewhere = write(tmp_path / "data", 1), write(tmp_path / "elsewhere", 2)
    write(data / "sub", 3)
    write(elsewhere / "deep", 4)
    write(tmp_path, 9)
    (data / "a_loop").symlink_to(data)
    (data / "a_parent").symlink_to(tmp_path)
    (data / "again").symlink_to(data / "sub")
    (data / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(data / "sub")
    (elsewhere / "deep/other").symlink_to(elsewhere)
    (data / "broken").symlink_to(tmp_path / "nowhere")
    expected = ["1.png", "link/2.png", "link/deep/4.png", "sub/3.png"]
    assert [path.relative_to(data).as_posix() for path in list_images(data)] == expected
    (tmp_path / "whole").symlink_to(data)
    assert len(list_images(tmp_path / "whole")) == 4, "the folder itself may be a link"


def test_a_folder_without_links_is_listed_as_ever(tmp_path: Path) -> None:
    write(tmp_path / "b", 1)
    write(tmp_path / ".hidden", 2)
    write(tmp_path, 3)
    assert list_images(tmp_path) == [path for path in sorted(tmp_path.rglob("*")) if path.suffix]


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    return [str(write(tmp_path / "a", 10, 11, 12)), str(write(tmp_path / "b", *range(20, 25)))]


def test_photos_of_several_folders_are_one_list(folders: list[str], tmp_path: Path) -> None:
    names = [path.name for path in training_photos(folders, None)]
    assert names == ["10.png", "11.png", "12.png", "20.png", "21.png", "22.png", "23.png", "24.png"]
    (tmp_path / "out.txt").write_text("11.png\n22.png\n")
    photos = folder_photos(folders, str(tmp_path / "out.txt"), most=5)
    assert photos.names == ["10.png", "12.png", "20.png", "21.png", "23.png"] and photos.groups is None
    crops = PhotoCrops(folder_photos(folders, None), 16)
    assert sorted(value_of(crops[index]) for index in range(8)) == [10, 11, 12, *range(20, 25)]


def test_folders_are_drawn_by_their_weights(folders: list[str]) -> None:
    crops = PhotoCrops(folder_photos(folders, None, weights=[3, 1]), 16, seed=4)
    values = [value_of(crops[index]) for index in range(240)]
    counts = Counter(value // 10 for value in values)
    assert 160 <= counts[1] <= 200  # 180 expected, with a standard deviation of 6.7
    assert {*values} == {10, 11, 12, *range(20, 25)}

    again = PhotoCrops(folder_photos(folders, None, weights=[3, 1]), 16, seed=4)
    assert [value_of(again[index]) for index in range(100, 140)] == values[100:140], "wherever a run begins"
    loader = DataLoader(Subset(again, range(24)), batch_size=2, num_workers=2)
    loaded = [round(float(target[0, 0, 0]) * 255) for batch in loader for target in batch["target"]]
    assert loaded == values[:24], "whoever reads them"


def test_a_damaged_photo_is_replaced_by_the_next_of_its_folder(folders: list[str]) -> None:
    photos = folder_photos(folders, None, weights=[1, 1])
    whole = PhotoCrops(photos, 16)
    values = [value_of(whole[index]) for index in range(40)]
    photos.paths[1].write_bytes(b"no image")
    damaged = PhotoCrops(photos, 16)
    replaced = [value_of(damaged[index]) for index in range(40)]
    assert {before for before, after in zip(values, replaced, strict=True) if before != after} == {11}
    assert {after for before, after in zip(values, replaced, strict=True) if before == 11} <= {10, 12}


def test_weights_have_to_fit_the_folders(folders: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--train_data_weights has 1 values, and --train_data_dir 2 folders"):
        folder_photos(folders, None, weights=[1])
    with pytest.raises(ValueError, match=r"No photo of '.*b' is left"):
        folder_photos(folders, None, most=3, weights=[1, 1])
    inner = str(write(tmp_path / "a/inner", 5))
    for pair in ([folders[0], inner], [inner, folders[0]], [folders[0], folders[0]]):
        with pytest.raises(ValueError, match=r"'.*' is in '.*', whose photos are all used"):
            folder_photos(pair, None)
