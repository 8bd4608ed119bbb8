import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, default_collate

from diffusers_sr.data import skipped as skipped_module
from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_settings import DegradationConfig
from diffusers_sr.data.lists import list_images, listed_names
from diffusers_sr.data.pairs import pair_photos
from diffusers_sr.data.photos import PhotoFiles
from diffusers_sr.data.seeds import sample_generator
from diffusers_sr.data.tags import read_tags, split_tags
from tests.data.samples import tensor


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
    a, b = (tensor(PhotoCrops(list_images(photos), 32, seed=seed)[0], "target") for seed in (0, 1))
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
    assert tensor(plain, "degraded").shape == tensor(sharpened, "degraded").shape == (3, 8, 8)
    assert torch.equal(tensor(plain, "target"), tensor(PhotoCrops(paths, 32)[0], "target"))
    assert not torch.equal(tensor(plain, "target"), tensor(sharpened, "target"))


def test_one_damaged_photo_is_skipped_counted_and_replaced(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = list_images(photos)
    tags = {path.name: path.name for path in paths}
    whole = PhotoCrops(paths, 32, tags=tags)
    names = [whole[index]["tags"] for index in range(12)]
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[: len(content) // 2])

    damaged = PhotoCrops(paths, 32, tags=tags)
    for index in range(9):
        expected = names[index] if names[index] != "photo_1.png" else names[index + 1]
        if expected == "photo_1.png":  # last of one pass, first of the next
            expected = names[index + 2]
        assert damaged[index]["tags"] == expected
        if names[index] != "photo_1.png":
            same = torch.equal(tensor(damaged[index], "target"), tensor(whole[index], "target"))
            assert same, "the others are as before"
    assert damaged.skipped == ["photo_1.png"]
    (message,) = caplog.messages
    assert message.startswith("Skipped: photo_1.png cannot be read: ")
    assert message.endswith("Skipped so far: 1.")

    again = [tensor(damaged[index], "target") for index in range(6)]
    loader = DataLoader(Subset(PhotoCrops(paths, 32), range(6)), batch_size=1, num_workers=2)
    assert all(torch.equal(tensor(batch, "target")[0], target) for batch, target in zip(loader, again, strict=True))


def test_what_loader_workers_skip_is_counted_and_told_once(photos: Path, tmp_path: Path) -> None:
    """By whichever comes upon it; photos of the same name in other folders are others."""
    (photos / "more").mkdir()
    for path in (photos / "photo_1.png", photos / "more/photo_1.png"):
        path.write_bytes(b"no image")
    crops = PhotoCrops(list_images(photos), 32)
    handler = logging.FileHandler(tmp_path / "log")
    logging.getLogger(skipped_module.__name__).addHandler(handler)
    try:
        for start in (0, 8):  # two workers, one after the other
            assert len(list(DataLoader(Subset(crops, range(start, start + 8)), num_workers=1))) == 8
        assert all(tensor(crops[index], "target").shape == (3, 32, 32) for index in range(16)), "here again"
    finally:
        logging.getLogger(skipped_module.__name__).removeHandler(handler)
    handler.close()
    assert crops.skipped == ["more/photo_1.png", f"{photos.name}/photo_1.png"]
    told = (tmp_path / "log").read_text().splitlines()
    assert [line.rsplit(". ", 1)[1] for line in told] == ["Skipped so far: 1.", "Skipped so far: 2."]


@pytest.mark.parametrize("only", range(3))
def test_a_single_photo_that_can_be_used_is_found_from_everywhere(photos: Path, only: int) -> None:
    paths = list_images(photos)
    for number, path in enumerate(paths):
        if number != only:
            path.write_bytes(b"no image")
    crops = PhotoCrops(paths, 32, tags={paths[only].name: "found"})
    assert {crops[index]["tags"] for index in range(9)} == {"found"}


def test_photos_that_are_all_damaged_are_an_error(photos: Path) -> None:
    for path in list_images(photos):
        path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"6 photos in a row cannot be used, the last because photo_\d.png cannot be read"
    ):
        PhotoCrops(list_images(photos), 32)[0]


def test_photo_smaller_than_the_crop_is_named(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"photo_\d\.png is \d+x48 pixels, smaller than the crop of 64x64"):
        PhotoCrops(list_images(photos), 64)[0]


def test_tags_file_needs_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    path.write_text('file,tags\na.png,"sky, sea"\n')
    assert read_tags(path) == ["sky, sea"]
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
    with pytest.raises(ValueError, match=r"do not exist: \['a b.png'\]"):
        listed_names(listed, [Path("photos/c.png")])


def test_generators_of_neighbouring_seeds_differ() -> None:
    firsts = [torch.rand((), generator=sample_generator(seed, index)) for seed in range(4) for index in range(100)]
    assert len({float(first) for first in firsts}) == 400


def shrink(photos: Path, folder: Path) -> list[Path]:
    """Every fourth pixel of each photo, so that a crop says where it is from."""
    folder.mkdir()
    for path in list_images(photos):
        Image.open(path).resize((14, 12), Image.Resampling.NEAREST).save(folder / path.name)
    return list_images(folder)


@pytest.fixture
def pairs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> PhotoFiles:
    for path in list_images(photos):
        Image.open(path).crop((0, 0, 56, 48)).save(path)
    paths = list_images(photos)
    return PhotoFiles(paths, pair_photos(paths, shrink(photos, tmp_path_factory.mktemp("pairs") / "low"), 4))


def test_pairs_are_cut_at_the_same_place(pairs: PhotoFiles) -> None:
    crops = PhotoCrops(pairs, 32, degradation=DegradationConfig(), tags={"photo_1.png": "tree"})
    seen = set()
    for index in range(12):
        sample = crops[index]
        assert sample.keys() == {"target", "degraded", "tags", "seed"}
        target, degraded = tensor(sample, "target"), tensor(sample, "degraded")
        assert degraded.shape == (3, 8, 8)
        # Pillow's nearest pixel of four is the third; of a flipped crop it comes second.
        assert any(torch.equal(target[:, 2::4, column::4], degraded) for column in (1, 2))
        assert torch.equal((target * 255).round() / 255, target), "not sharpened"
        seen.add((sample["tags"], float(target.sum())))
    assert len(seen) > 6 and {tags for tags, _ in seen} == {"", "tree"}


def test_pairs_may_have_references(pairs: PhotoFiles) -> None:
    references = {name: {"photo_0.png": 1.0} for name in pairs.names}
    sample = PhotoCrops(pairs, 32, references=references)[0]
    assert tensor(sample, "reference").shape == (3, 32, 32)


def test_a_damaged_low_resolution_version_is_named(pairs: PhotoFiles, caplog: pytest.LogCaptureFixture) -> None:
    damaged = pairs[1].degraded
    assert damaged is not None
    damaged.write_bytes(b"no image")
    crops = PhotoCrops(pairs, 32)
    assert all(tensor(crops[index], "degraded").shape == (3, 8, 8) for index in range(3))
    assert crops.skipped == ["photo_1.png"]
    assert str(damaged) in caplog.text


def test_pairs_that_do_not_match_are_listed(photos: Path, tmp_path: Path) -> None:
    low = shrink(photos, tmp_path / "low")
    paths = [path for path in list_images(photos) if path.parent == photos]
    with pytest.raises(
        ValueError, match=r"2 of the photos.*photo_1.png is 57x48 pixels, photo_1.png 14x12; photo_2.png"
    ):
        pair_photos(paths, low, 4)
    low[0].rename(low[0].with_name("other.png"))
    with pytest.raises(ValueError, match=r"other.png has no photo; photo_0.png has no low-resolution version"):
        pair_photos(paths[:1], [low[0].with_name("other.png")], 4)
    with pytest.raises(ValueError, match=r"photo_0.png has several: photo_0.png, photo_0.jpg"):
        pair_photos(paths[:1], [tmp_path / "low/photo_0.png", tmp_path / "low/photo_0.jpg"], 4)


@pytest.mark.parametrize("sharpen_target", [False, True])
def test_what_is_left_for_the_device_is_completed_there(photos: Path, sharpen_target: bool) -> None:
    options: dict[str, Any] = {"degradation": DegradationConfig(), "sharpen_target": sharpen_target}
    paths = list_images(photos)
    references = {path.name: {paths[0].name: 1.0} for path in paths}
    worker, later = (PhotoCrops(paths, 32, **options, references=references, degrade_later=at) for at in (False, True))
    batch = default_collate([later[index] for index in range(4)])
    assert "degraded" not in batch
    completed = later.complete(batch)
    assert completed.keys() == worker[0].keys()
    assert completed["degraded"].shape == (4, 3, 8, 8)
    for index in range(4):
        torch.testing.assert_close(completed["target"][index], worker[index]["target"])
    assert len({float(each.sum()) for each in completed["degraded"]}) == 4
    again = later.complete(default_collate([later[index] for index in (3, 2)]))
    assert torch.equal(again["degraded"], completed["degraded"].flip(0)[:2]), "a sample is its own whatever its batch"


def test_a_crop_that_cannot_be_divided_is_refused(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"30 pixels.*scale=4"):
        PhotoCrops(list_images(photos), 30, degradation=DegradationConfig())
