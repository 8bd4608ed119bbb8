"""Data sets of the Hub: rows to photos, and the package that loads them."""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_sr.data.hub_photos import row_photo
from diffusers_sr.data.photos import StoredPhoto, read_image
from diffusers_sr.training.arguments import RestorationArguments
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.text import TextArguments
from tests.data.samples import tensor
from tests.training.runs import write_noise_photos

has_datasets = importlib.util.find_spec("datasets") is not None


def test_rows_hold_bytes_or_paths_and_captions_or_tags() -> None:
    row = {"image": {"bytes": b"png", "path": "a.png"}, "text": "a house", "tags": ["sky", "sea"], "none": None}
    assert row_photo(row, "00000003", "image", "text") == StoredPhoto("00000003", b"png", "a house")
    assert row_photo(row, "x", "image", "tags").tags == "sky, sea"
    assert row_photo(row, "x", "image", "none").tags == row_photo(row, "x", "image", None).tags == ""
    assert row_photo({"image": {"bytes": None, "path": "b.png"}}, "x", "image", None).file == "b.png"
    assert row_photo({"image": None}, "x", "image", None).file == b""


def test_images_behind_a_url_are_opened() -> None:
    """As those of a folder of images on the Hub that is streamed."""
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with fsspec.open("memory://photos/a.png", "wb") as file:
        Image.fromarray(pixels).save(file, "PNG")
    photo = row_photo({"image": {"bytes": None, "path": "memory://photos/a.png"}}, "x", "image", None)
    assert read_image(photo.file).permute(1, 2, 0).tolist() == pixels.tolist()
    with pytest.raises(FileNotFoundError):
        read_image("memory://photos/none.png")


@pytest.mark.skipif(has_datasets, reason="datasets is installed")
def test_the_package_is_asked_for() -> None:
    arguments = RestorationArguments(output_dir="unused", dataset_name="user/name")
    with pytest.raises(ImportError, match=r"pip install 'diffusers-sr\[train\]'"):
        degraded_crops(arguments)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A folder that `datasets` reads as images with captions: five photos, of which one is damaged."""
    write_noise_photos(tmp_path, 5, 40)
    lines = ["file_name,text", *(f"{number}.png,caption {number}" for number in range(5))]
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@dataclass(kw_only=True)
class Arguments(RestorationArguments, TextArguments):
    """Options of a stage that trains with texts."""


def options(dataset: Path, **others: Any) -> Arguments:
    return Arguments(
        output_dir="unused",
        dataset_name=str(dataset),
        caption_column="text",
        resolution=32,
        train_batch_size=2,
        **others,
    )


def test_a_data_set_is_trained_on(dataset: Path) -> None:
    pytest.importorskip("datasets")
    crops = degraded_crops(options(dataset))
    assert list(crops.names) == [f"{number:08d}" for number in range(5)]
    assert {crops[index]["tags"] for index in range(5)} == {f"caption {number}" for number in (0, 1, 3, 4)}
    assert list(crops.skipped) == ["00000002"]
    assert tensor(crops[0], "degraded").shape == (3, 8, 8)
    with pytest.raises(ValueError, match=r"--image_column photo: the data set .* has the columns image, text"):
        degraded_crops(options(dataset, image_column="photo"))
    with pytest.raises(ValueError, match=r"^5 of the 5 photos have no tags or captions, such as '00000000', "):
        degraded_crops(replace(options(dataset), caption_column=None))


def test_a_data_set_is_streamed_and_resumed(dataset: Path) -> None:
    pytest.importorskip("datasets")
    whole = degraded_crops(options(dataset, streaming=True))
    samples = [whole[index] for index in range(12)]
    assert {sample["tags"] for sample in samples} == {f"caption {number}" for number in (0, 1, 3, 4)}
    resumed = degraded_crops(options(dataset, streaming=True))
    for index in range(7, 12):
        assert torch.equal(tensor(resumed[index], "degraded"), tensor(samples[index], "degraded"))
    with pytest.raises(ValueError, match="without --exclude_data"):
        degraded_crops(options(dataset, streaming=True, exclude_data="listed.txt"))
    with pytest.raises(ValueError, match="The streamed photos have no tags or captions: give --caption_column"):
        degraded_crops(replace(options(dataset, streaming=True), caption_column=None))
    with pytest.raises(ValueError, match="--tags_file needs the photos' names, and streamed photos have none"):
        degraded_crops(options(dataset, streaming=True, tags_file="tags.csv"))
    (dataset / "metadata.csv").write_text("file_name,text\n0.png,caption\n1.png,\n3.png,\n4.png,\n")
    (dataset / "2.png").unlink()
    with pytest.raises(ValueError, match="A streamed photo has no text in the column 'text'"):
        [degraded_crops(options(dataset, streaming=True))[index] for index in range(4)]
