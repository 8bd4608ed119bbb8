"""Photos whose prompts are in a cache: an unchanged file is opened once, and never if `caption` saw it."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from diffusers_sr.data.lists import list_images
from diffusers_sr.xpsr.caption_folder import Described, caption_folder
from diffusers_sr.xpsr.prompts import ImagePrompts, PromptCache, high_level_prompts
from tests.components import tiny_image
from tests.permissions import without_rights

SETTINGS = {"captioner": "tiny"}
EXPECTED = {f"{number}.png": f"{10 + number} wide" for number in range(3)}


def captioner(images: list[Image.Image]) -> list[ImagePrompts]:
    return [ImagePrompts(f"{image.width} wide", "") for image in images]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        tiny_image(10 + number, 20, seed=number).save(folder / f"{number}.png")
    return folder


def overwrite(folder: Path) -> None:
    """Put other bytes in the place of the photos, which can then not be opened, and leave size and time."""
    for path in folder.iterdir():
        before = path.stat()
        path.write_bytes(b"\0" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_caption_saw_is_not_opened_again(tmp_path: Path, photos: Path) -> None:
    caption_folder(photos, tmp_path / "prompts", captioner, SETTINGS, report=lambda path, reason: None)
    overwrite(photos)
    assert high_level_prompts(tmp_path / "prompts", list_images(photos)) == EXPECTED
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("photos", "prompts"):
        shutil.move(tmp_path / name, moved / name)
    assert high_level_prompts(moved / "prompts", list_images(moved / "photos")) == EXPECTED


def test_what_an_earlier_version_described_is_opened_once(tmp_path: Path, photos: Path) -> None:
    PromptCache(tmp_path, SETTINGS).describe([Image.open(path) for path in list_images(photos)], captioner)
    (photos / "damaged.png").write_bytes(b"no image")
    assert high_level_prompts(tmp_path, list_images(photos)) == EXPECTED
    lines = (tmp_path / "image-keys.jsonl").read_bytes()
    (tmp_path / "image-keys.jsonl").write_bytes(lines + b'["photos/0.png", 1, 2')  # an interruption
    overwrite(photos)
    assert high_level_prompts(tmp_path, list_images(photos)) == EXPECTED
    assert (tmp_path / "image-keys.jsonl").read_bytes() == lines + b'["photos/0.png", 1, 2'


def test_a_photo_that_has_changed_is_opened_again(tmp_path: Path, photos: Path) -> None:
    caption_folder(photos, tmp_path, captioner, SETTINGS, report=lambda path, reason: None)
    tiny_image(12, 20, seed=2).save(photos / "0.png")
    os.utime(photos / "0.png", ns=(0, 0))
    assert high_level_prompts(tmp_path, list_images(photos))["0.png"] == "12 wide"


def test_where_nothing_can_be_kept_it_is_said(
    tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    prompts = tmp_path / "prompts"
    PromptCache(prompts, SETTINGS).describe([Image.open(path) for path in list_images(photos)], captioner)
    prompts.chmod(0o555)
    try:
        with without_rights():
            assert high_level_prompts(prompts, list_images(photos)) == EXPECTED
    finally:
        prompts.chmod(0o755)
    assert "every start opens all photos" in caplog.text


def test_parts_share_the_images(tmp_path: Path, photos: Path) -> None:
    """As several processes do; each adds to the file that the first began."""
    PromptCache(tmp_path / "prompts", SETTINGS).begin()
    done = [
        caption_folder(
            photos, tmp_path / "prompts", captioner, SETTINGS, part=(number, 2), report=lambda path, reason: None
        )
        for number in (0, 1)
    ]
    assert done == [Described(2, 0, 0), Described(1, 0, 0)]
    assert high_level_prompts(tmp_path / "prompts", list_images(photos)) == EXPECTED
