"""XPSR's prompts: the cache by image content, and the official layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.xpsr.prompts import ImagePrompts, PromptCache, image_key, read_prompts, write_official
from tests.components import tiny_image

SETTINGS = {"captioner": "one", "low_level_instruction": "How good is it?"}
IMAGES = [tiny_image(8, 6, seed=seed) for seed in range(4)]
PROMPTS = [ImagePrompts(f"image {number}", f"überall «unscharf» {number}") for number in range(4)]


class Asked:
    """A captioner that knows `IMAGES`, and keeps what it is asked."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, images: list[Image.Image]) -> list[ImagePrompts]:
        numbers = [IMAGES.index(image) for image in images]
        self.calls.append(numbers)
        return [PROMPTS[number] for number in numbers]


def test_the_key_is_of_the_pixels() -> None:
    image = IMAGES[0]
    assert image_key(image) == image_key(image.copy()) == image_key(image.convert("RGBA"))
    others = [IMAGES[1], image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image.crop((0, 0, 8, 5))]
    flat = [Image.new("RGB", size, "red") for size in ((6, 4), (4, 6), (12, 2))]
    assert len({image_key(each) for each in [image, *others, *flat]}) == 7


def test_an_image_is_described_once(tmp_path: Path) -> None:
    captioner = Asked()
    cache = PromptCache(tmp_path / "new", SETTINGS)
    assert cache.get(IMAGES[0]) is None
    assert not (tmp_path / "new").exists()
    assert cache.describe([IMAGES[1], IMAGES[0], IMAGES[1].copy()], captioner) == [PROMPTS[1], PROMPTS[0], PROMPTS[1]]
    assert cache.describe(IMAGES[:3], captioner) == PROMPTS[:3]
    assert captioner.calls == [[1, 0], [2]]

    again = PromptCache(tmp_path / "new", dict(reversed(SETTINGS.items())))
    assert again.get(IMAGES[2]) == PROMPTS[2]
    assert again.describe(IMAGES[:3], captioner) == PROMPTS[:3]
    assert len(again) == 3
    assert captioner.calls == [[1, 0], [2]]


@pytest.mark.parametrize("changed", [{"captioner": "other"}, {"low_level_instruction": "Why?"}, {"max_new_tokens": 3}])
def test_other_settings_have_another_file(changed: dict[str, object], tmp_path: Path) -> None:
    PromptCache(tmp_path, SETTINGS).describe(IMAGES, Asked())
    other = PromptCache(tmp_path, SETTINGS | changed)
    assert other.get(IMAGES[0]) is None
    captioner = Asked()
    other.describe(IMAGES[:1], captioner)
    assert captioner.calls == [[0]]
    assert len(PromptCache(tmp_path, SETTINGS)) == 4
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("lost", [1, 5, 30])
def test_an_interruption_loses_the_last_line_alone(lost: int, tmp_path: Path) -> None:
    cache = PromptCache(tmp_path, SETTINGS)
    cache.describe(IMAGES[:3], Asked())
    cache.path.write_bytes(cache.path.read_bytes()[: -1 - lost])  # within a line, perhaps within a character
    captioner = Asked()
    cache = PromptCache(tmp_path, SETTINGS)
    assert len(cache) == 2
    cache.describe(IMAGES, captioner)
    assert captioner.calls == [[2, 3]]
    again = PromptCache(tmp_path, SETTINGS)
    assert [again.get(image) for image in IMAGES] == PROMPTS


def test_prompts_can_be_replaced(tmp_path: Path) -> None:
    cache = PromptCache(tmp_path, SETTINGS)
    cache.describe(IMAGES[:2], Asked())
    size = cache.path.stat().st_size
    cache.replace(IMAGES[:2], PROMPTS[:2])
    assert cache.path.stat().st_size == size
    cache.replace(IMAGES[:2], [PROMPTS[0], PROMPTS[3]])
    for each in (cache, PromptCache(tmp_path, SETTINGS)):
        assert [each.get(image) for image in IMAGES[:2]] == [PROMPTS[0], PROMPTS[3]]


def test_a_captioner_that_gives_too_few_prompts_writes_none(tmp_path: Path) -> None:
    cache = PromptCache(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="zip"):
        cache.describe(IMAGES, lambda images: PROMPTS[:2])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_cache_is_named(tmp_path: Path) -> None:
    cache = PromptCache(tmp_path, SETTINGS)
    for text in ("", "notes\n", "[]\n", '{"image": "x"}\n'):
        cache.path.write_text(text)
        with pytest.raises(ValueError, match=rf"{cache.path.name} is not a cache of prompts"):
            PromptCache(tmp_path, SETTINGS)


def test_files_are_found_by_their_pixels(tmp_path: Path) -> None:
    PromptCache(tmp_path / "prompts", SETTINGS).describe(IMAGES, Asked())
    (tmp_path / "moved").mkdir()
    paths = [tmp_path / "a.png", tmp_path / "moved" / "b.bmp", tmp_path / "c.webp", tmp_path / "d.tif"]
    for path, image in zip(paths, IMAGES, strict=True):
        options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
        image.save(path, **options)
    assert read_prompts(tmp_path / "prompts", paths) == PROMPTS
    # Stored on its side, with a note that says so.
    exif = Image.Exif()
    exif[274] = 6
    IMAGES[3].transpose(Image.Transpose.ROTATE_90).save(tmp_path / "e.png", exif=exif)
    assert read_prompts(tmp_path / "prompts", [tmp_path / "e.png"]) == [PROMPTS[3]]


def test_an_image_that_is_not_described_is_named(tmp_path: Path) -> None:
    PromptCache(tmp_path, SETTINGS).describe(IMAGES[:1], Asked())
    for number in (0, 1, 2):
        IMAGES[number].save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in (0, 1, 2)]
    with pytest.raises(ValueError, match=r"2 of 3 images have no prompts in .*jsonl, the first of them .*/1.png"):
        read_prompts(tmp_path, paths)
    paths[1].write_text("no image")
    with pytest.raises(ImageFileError):
        read_prompts(tmp_path, paths)


def test_which_captioner_has_to_be_clear(tmp_path: Path) -> None:
    for name in ("one", "two"):
        PromptCache(tmp_path, {"captioner": name}).describe(IMAGES, Asked())
    with pytest.raises(ValueError, match=r"several captioners: .*'captioner': '(one|two)'.*'captioner': '(one|two)'"):
        read_prompts(tmp_path, [])


def test_a_directory_without_prompts(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=rf"no prompts in {directory}: .*highlevel_prompt"):
            read_prompts(directory, [])


def test_the_official_layout(tmp_path: Path) -> None:
    texts = {
        "highlevel_prompt/a.txt": " A mountain\nand a lake\n",
        "lowlevel_prompt_q/a.txt": "\ufeffnoisy, très flou",
        "highlevel_prompt/b.txt": "",
        "lowlevel_prompt_q/b.txt": "\nsecond line",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    # The images themselves need not be there.
    assert read_prompts(tmp_path, [Path("elsewhere/b.png"), Path("a.jpeg"), Path("a.png")]) == [
        ImagePrompts("", ""),
        ImagePrompts("A mountain", "noisy, très flou"),
        ImagePrompts("A mountain", "noisy, très flou"),
    ]
    (tmp_path / "lowlevel_prompt_q" / "a.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"lowlevel_prompt_q/a.txt: every image needs one"):
        read_prompts(tmp_path, [Path("a.png")])


def test_the_official_layout_is_written_as_it_is_read(tmp_path: Path) -> None:
    write_official(tmp_path, "photo.v2", ImagePrompts("a  lake\n\nand «more»", ""))
    assert (tmp_path / "highlevel_prompt" / "photo.v2.txt").read_text("utf-8") == "a lake and «more»\n"
    assert read_prompts(tmp_path, [Path("photo.v2.png")]) == [ImagePrompts("a lake and «more»", "")]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2  # and nothing temporary
    PromptCache(tmp_path, SETTINGS).describe(IMAGES, Asked())
    assert read_prompts(tmp_path, [Path("photo.v2.png")])[0].high_level == "a lake and «more»"


def test_the_cache_can_be_read_by_people(tmp_path: Path) -> None:
    cache = PromptCache(tmp_path, SETTINGS)
    cache.describe(IMAGES[:1], Asked())
    first, second = cache.path.read_text("utf-8").splitlines()
    assert json.loads(first) == {"settings": SETTINGS}
    assert "überall «unscharf» 0" in second
