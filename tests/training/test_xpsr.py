"""The prompts that photos are trained with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.lists import list_images
from diffusers_sr.data.photos import StoredPhoto
from diffusers_sr.data.shards import write_shard
from diffusers_sr.training.arguments import TrainingArguments
from diffusers_sr.training.photos import photo_crops
from diffusers_sr.training.text import PromptArguments
from diffusers_sr.xpsr.prompts import ImagePrompts, PromptCache, official_files, write_official
from tests.training.runs import write_noise_photos


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    write_noise_photos(folder, 3, 16)
    return folder


@pytest.fixture(params=["official", "cache"])
def prompts(request: pytest.FixtureRequest, photos: Path, tmp_path: Path) -> Path:
    """Photo 0 shows "a 0", and so on."""
    cache = PromptCache(tmp_path / "prompts", {"captioner": "none"})
    for path in list_images(photos):
        each = ImagePrompts(f"a {path.stem}", "sharp")
        if request.param == "official":
            write_official(tmp_path / "prompts", path.stem, each)
        else:
            cache.replace([Image.open(path)], [each])
    return tmp_path / "prompts"


@dataclass(kw_only=True)
class Arguments(TrainingArguments, PromptArguments):
    """Options of a stage that trains with prompts."""


def crops_of(**options: object) -> PhotoCrops:
    given: dict[str, Any] = {name: str(value) for name, value in options.items()}
    return photo_crops(Arguments(output_dir="unused", resolution=8, **given))


def test_crops_get_the_prompts_of_their_photos(photos: Path, prompts: Path) -> None:
    crops = crops_of(train_data_dir=photos, prompts_dir=prompts)
    assert {crops[index]["tags"] for index in range(3)} == {"a 0", "a 1", "a 2"}
    with pytest.raises(ValueError, match="from one of --tags_file and --prompts_dir"):
        crops_of(train_data_dir=photos, prompts_dir=prompts, tags_file="tags.csv")


def test_a_damaged_photo_needs_no_prompt(photos: Path, prompts: Path) -> None:
    (photos / "1.png").write_bytes(b"no image")
    for path in official_files(prompts, "1"):
        path.unlink(missing_ok=True)
    crops = crops_of(train_data_dir=photos, prompts_dir=prompts)
    assert {crops[index]["tags"] for index in range(3)} == {"a 0", "a 2"}
    assert crops.skipped == ["1.png"]


def test_any_other_photo_needs_one(photos: Path, prompts: Path) -> None:
    (photos / "1.png").write_bytes(b"no image")
    Image.new("RGB", (16, 16)).save(photos / "3.png")
    with pytest.raises((FileNotFoundError, ValueError), match=r"3\.(txt|png)"):
        crops_of(train_data_dir=photos, prompts_dir=prompts)


def test_photos_of_shards_bring_their_prompts_along(photos: Path, prompts: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", [StoredPhoto(path.name, path, f"the {path.stem}") for path in list_images(photos)])
    crops = crops_of(train_shards_path_or_url=tmp_path / "0.tar")
    assert {crops[index]["tags"] for index in range(3)} == {"the 0", "the 1", "the 2"}
    with pytest.raises(ValueError, match="for photos that are files of a folder"):
        crops_of(train_shards_path_or_url=tmp_path / "0.tar", prompts_dir=prompts)
