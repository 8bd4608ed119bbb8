"""The options that choose the data, from the command line to samples."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from diffusers_sr.data.degradation_settings import PISA, DegradationConfig
from diffusers_sr.data.lists import list_images
from diffusers_sr.data.photos import PhotoFiles, PhotoGroup, read_image
from diffusers_sr.data.shards import ShardPhotos, list_shards
from diffusers_sr.training.arguments import RestorationArguments, parse_arguments
from diffusers_sr.training.engine import train
from diffusers_sr.training.photos import degraded_crops, photo_crops
from tests.data.samples import tensor
from tests.training.runs import script, write_noise_photos


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    write_noise_photos(folder, 4, 40)
    return folder


def arguments(**options: object) -> RestorationArguments:
    words = [word for name, value in {"resolution": 32, **options}.items() for word in (f"--{name}", str(value))]
    return parse_arguments(RestorationArguments, ["--output_dir", "unused", *words])


def test_exactly_one_source_is_named(photos: Path) -> None:
    with pytest.raises(ValueError, match="--train_data_dir, --dataset_name, --train_shards_path_or_url, but none is"):
        photo_crops(arguments())
    with pytest.raises(ValueError, match="but --train_data_dir and --dataset_name are given"):
        photo_crops(arguments(train_data_dir=photos, dataset_name="user/name"))
    with pytest.raises(ValueError, match="--streaming is for --dataset_name"):
        photo_crops(arguments(train_data_dir=photos, streaming=True))
    with pytest.raises(ValueError, match="No image found"):
        photo_crops(arguments(train_data_dir=photos / "none"))


def test_shards_leave_out_and_stop_as_a_folder_does(photos: Path, tmp_path: Path) -> None:
    script("prepare").main(["--train_data_dir", str(photos), "--output_dir", str(tmp_path / "shards")])
    listed = tmp_path / "held_out.txt"
    listed.write_text("1.png\n")
    options = {"exclude_data": listed, "max_train_samples": 2}
    folder = degraded_crops(arguments(train_data_dir=photos, **options))
    shards = degraded_crops(arguments(train_shards_path_or_url=tmp_path / "shards", **options))
    assert list(folder.names) == list(shards.names) == ["0.png", "2.png"]
    for index in range(3):
        for name in ("target", "degraded", "seed"):
            assert torch.equal(tensor(folder[index], name), tensor(shards[index], name))
    with pytest.raises(ValueError, match="not files of a folder"):
        _ = shards.paths
    listed.write_text("0.png\n1.png\n2.png\n3.png\n")
    for source in ({"train_data_dir": photos}, {"train_shards_path_or_url": tmp_path / "shards"}):
        with pytest.raises(ValueError, match="No photo is left"):
            degraded_crops(arguments(**source, **options))
    listed.write_text("x.png\n")
    with pytest.raises(ValueError, match=r"x\.png"):
        degraded_crops(arguments(train_shards_path_or_url=tmp_path / "shards", **options))


def test_pairs_take_the_place_of_the_degradation(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "low").mkdir()
    for path in list_images(photos):
        Image.open(path).resize((10, 10)).save(tmp_path / "low" / f"{path.stem}.bmp")
    (tmp_path / "held_out.txt").write_text("3.png\n")
    crops = degraded_crops(
        arguments(train_data_dir=photos, train_lr_dir=tmp_path / "low", exclude_data=tmp_path / "held_out.txt")
    )
    assert isinstance(crops.photos, PhotoFiles) and len(crops.photos) == 3
    low = torch.from_numpy(np.array(Image.open(tmp_path / "low/0.bmp")))
    values = {tuple(pixel) for pixel in low.flatten(0, 1).tolist()}
    degraded = [(tensor(crops[index], "degraded") * 255).round().int() for index in range(3)]
    found = [{tuple(pixel) for pixel in image.flatten(1).T.tolist()} <= values for image in degraded]
    assert found.count(True) == 1, "one of a pass is of photo 0"
    with pytest.raises(ValueError, match="belongs to photos of a folder"):
        degraded_crops(arguments(train_shards_path_or_url=photos, train_lr_dir=tmp_path / "low"))
    Image.new("RGB", (11, 10)).save(tmp_path / "low/2.bmp")
    with pytest.raises(ValueError, match=r"2.png is 40x40 pixels, 2.bmp 11x10"):
        degraded_crops(arguments(train_data_dir=photos, train_lr_dir=tmp_path / "low"))


def test_what_is_done_with_the_photos_of_several_folders(photos: Path, tmp_path: Path) -> None:
    write_noise_photos(tmp_path / "small", 2, 20)
    folders = [str(photos), str(tmp_path / "small")]
    words = ["--output_dir", "unused", "--resolution", "32", "--resize_mode", "resize_crop", "--degradation", "pisa"]
    given = parse_arguments(
        RestorationArguments, [*words, "--train_data_dir", *folders, "--train_data_weights", "3", "1"]
    )
    assert (given.train_data_dir, given.train_data_weights) == (folders, [3.0, 1.0])
    crops = degraded_crops(given)
    assert isinstance(crops.photos, PhotoFiles)
    assert crops.photos.groups == [PhotoGroup(range(4), 3.0), PhotoGroup(range(4, 6), 1.0)]
    assert crops.degradation == replace(PISA, enlarges=False)
    assert [tensor(crops[index], "degraded").shape for index in range(3)] == [(3, 8, 8)] * 3
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"train_data_dir: [{', '.join(folders)}]\ntrain_data_weights: [3, 1]\n")
    again = parse_arguments(RestorationArguments, [*words, "--config", str(recipe)])
    assert (again.train_data_dir, again.train_data_weights) == (folders, [3, 1])


def test_one_folder_is_what_it_was(photos: Path) -> None:
    given = arguments(train_data_dir=photos)
    assert given.train_data_dir == str(photos) and given.photo_folders == [str(photos)]
    crops = degraded_crops(given)
    assert crops.resize_mode == "crop" and crops.degradation == DegradationConfig()
    assert isinstance(crops.photos, PhotoFiles) and crops.photos.groups is None


def test_weights_belong_to_folders(photos: Path) -> None:
    with pytest.raises(ValueError, match="--train_data_weights belongs to photos of folders"):
        photo_crops(arguments(train_shards_path_or_url=photos, train_data_weights=1))
    with pytest.raises(ValueError, match=r"train_data_weights=\[0.0\]: it has to be a list, of which each has to be"):
        arguments(train_data_dir=photos, train_data_weights=0)


def test_shards_are_made_of_photos_that_are_resized(photos: Path, tmp_path: Path) -> None:
    words = ["--train_data_dir", str(photos), "--output_dir", str(tmp_path / "shards"), "--crop_size", "48"]
    script("prepare").main([*words, "--resize_mode", "resize"])
    shards = ShardPhotos(list_shards(tmp_path / "shards"))
    assert shards.names == [f"{number}_000.png" for number in range(4)]
    assert read_image(shards[0].file).shape == (3, 48, 48)
    with pytest.raises(ValueError, match="started with another value of resize_mode"):
        script("prepare").main(words)


class Seen(nn.Module):
    """A step that learns one number, and remembers its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.batches: list[dict[str, Tensor]] = []

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.batches.append(batch)
        return {"mse": (self.weight * batch["degraded"].mean() - batch["target"].mean()).square()}


def run(output_dir: Path, photos: Path, **options: object) -> Seen:
    module = Seen()
    given = arguments(train_data_dir=photos, max_train_steps=3, checkpointing_steps=1, **options)
    given.output_dir = str(output_dir)
    train(module, degraded_crops(given), given, lambda folder: None)
    return module


def test_the_engine_degrades_where_it_trains(photos: Path, tmp_path: Path) -> None:
    worker, accelerator = (
        run(tmp_path / device, photos, degradation_device=device).batches for device in ("worker", "accelerator")
    )
    for a, b in zip(worker, accelerator, strict=True):
        assert a.keys() == b.keys()
        assert a["degraded"].shape == b["degraded"].shape == (2, 3, 8, 8)
        torch.testing.assert_close(a["target"], b["target"])
    shutil.rmtree(tmp_path / "accelerator/checkpoint-3")
    resumed = run(tmp_path / "accelerator", photos, degradation_device="accelerator", resume_from_checkpoint="latest")
    (batch,) = resumed.batches
    assert torch.equal(batch["degraded"], accelerator[2]["degraded"])
    with pytest.raises(ValueError, match=r"'gpu'.*worker, accelerator"):
        degraded_crops(arguments(train_data_dir=photos, degradation_device="gpu"))
