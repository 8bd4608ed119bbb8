"""Folders of images to directories of prompts, and on after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_sr.xpsr.caption_folder import (
    Described,
    caption_folder,
    measure_folder,
    measured_prompt,
    words_of_name,
)
from diffusers_sr.xpsr.degradation_prompt import describe_degradation
from diffusers_sr.xpsr.prompts import ImagePrompts, read_prompts
from tests.components import tiny_image

SETTINGS = {"captioner": "tiny"}


class Sizes:
    """A captioner that says how large images are, and keeps how many it was asked of at once."""

    def __init__(self, interrupted_after: int = 100) -> None:
        self.calls: list[int] = []
        self.left = interrupted_after

    def __call__(self, images: list[Image.Image]) -> list[ImagePrompts]:
        self.left -= len(images)
        if self.left < 0:
            raise KeyboardInterrupt
        self.calls.append(len(images))
        return [ImagePrompts(f"{image.width} wide", f"{image.height} high") for image in images]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of which one cannot be read, and what is none."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for number in range(4):
        tiny_image(10 + number, 20, seed=number).save(folder / f"{number}.png")
    (folder / "1b.png").write_text("no image")
    (folder / "notes.txt").write_text("no image")
    tiny_image().save(folder / "below" / "x.png")
    return folder


@pytest.fixture
def reports() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def report(reports):
    return lambda path, reason: reports.append((path.name, reason))


def images(folder: Path) -> list[Path]:
    return [folder / f"{number}.png" for number in range(4)]


EXPECTED = [ImagePrompts(f"{10 + number} wide", "20 high") for number in range(4)]


@pytest.mark.parametrize("layout", ["cache", "official"])
def test_every_image_is_described(folder, tmp_path, report, reports, layout) -> None:
    captioner = Sizes()
    options = {"layout": layout, "report": report}
    done = caption_folder(folder, tmp_path / "out", captioner, SETTINGS, batch_size=3, **options)
    assert done == Described(described=4, kept=0, unreadable=1)
    assert captioner.calls == [2, 2]
    assert reports == [("1b.png", "is not an image that can be read")]
    assert read_prompts(tmp_path / "out", images(folder)) == EXPECTED
    assert ((tmp_path / "out" / "highlevel_prompt").is_dir()) == (layout == "official")

    again = Sizes()
    assert caption_folder(folder, tmp_path / "out", again, SETTINGS, **options) == Described(0, 4, 1)
    assert again.calls == []


@pytest.mark.parametrize("layout", ["cache", "official"])
def test_an_interruption_loses_one_batch(folder, tmp_path, report, layout) -> None:
    (folder / "1b.png").unlink()
    options = {"layout": layout, "batch_size": 1, "report": report}
    with pytest.raises(KeyboardInterrupt):
        caption_folder(folder, tmp_path / "out", Sizes(interrupted_after=2), SETTINGS, **options)
    if layout == "official":  # or it comes between the two files of an image
        (tmp_path / "out" / "lowlevel_prompt_q" / "1.txt").unlink()
    captioner = Sizes()
    left = 2 if layout == "cache" else 3
    assert caption_folder(folder, tmp_path / "out", captioner, SETTINGS, **options) == Described(left, 4 - left, 0)
    assert captioner.calls == [1] * left
    assert read_prompts(tmp_path / "out", images(folder)) == EXPECTED


def test_a_cache_follows_the_pixels(folder, tmp_path, report) -> None:
    (folder / "1b.png").unlink()
    caption_folder(folder, tmp_path / "out", Sizes(), SETTINGS, report=report)
    (folder / "0.png").rename(folder / "moved.png")
    with Image.open(folder / "1.png") as image:
        image.save(folder / "1.bmp")
    tiny_image(50, 20).save(folder / "2.png")
    captioner = Sizes()
    assert caption_folder(folder, tmp_path / "out", captioner, SETTINGS, report=report) == Described(1, 4, 0)
    assert captioner.calls == [1]
    assert read_prompts(tmp_path / "out", [folder / "2.png"]) == [ImagePrompts("50 wide", "20 high")]


def test_other_settings_begin_anew(folder, tmp_path, report) -> None:
    (folder / "1b.png").unlink()
    caption_folder(folder, tmp_path / "out", Sizes(), SETTINGS, report=report)
    done = caption_folder(folder, tmp_path / "out", Sizes(), {"captioner": "other"}, report=report)
    assert done == Described(4, 0, 0)


@pytest.mark.parametrize("layout", ["cache", "official"])
def test_measured(folder, tmp_path, report, reports, layout) -> None:
    options = {"layout": layout, "report": report}
    assert measure_folder(folder, tmp_path / "out", **options) == Described(4, 0, 1)
    assert [name for name, _ in reports] == ["1b.png"]
    prompts = read_prompts(tmp_path / "out", images(folder))
    with Image.open(folder / "2.png") as image:
        assert prompts[2] == ImagePrompts("", measured_prompt(image))
    assert prompts[2].low_level.endswith("very low resolution")

    # Names of files, on the same prompts: what has been measured is measured again.
    (folder / "2.png").rename(folder / "Old_Mill-2.png")
    assert measure_folder(folder, tmp_path / "out", high_level_from_names=True, **options) == Described(4, 0, 1)
    named = read_prompts(tmp_path / "out", [folder / "Old_Mill-2.png", folder / "0.png"])
    assert named == [ImagePrompts("old mill", prompts[2].low_level), ImagePrompts("", prompts[0].low_level)]


def test_the_measured_prompt_is_of_the_pixels() -> None:
    image = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(0))
    pixels = (image * 255).round().to(torch.uint8)
    written = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    assert measured_prompt(written) == describe_degradation(pixels / 255)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red-fox_012.png", "red fox"),
        ("IMG_2041.jpg", ""),
        ("DSC00012 Zürich.HEIC", "zürich"),
        ("castle.old.tif", "castle old"),
        ("1234.png", ""),
        ("car-200x112_2to1.png", "car"),
        ("two cats2.webp", "two cats"),
    ],
)
def test_words_of_a_name(name: str, words: str) -> None:
    assert words_of_name(Path("folder") / name) == words


def test_one_text_file_for_two_images(folder, tmp_path, report) -> None:
    tiny_image().save(folder / "2.bmp")
    for run in (
        lambda layout: measure_folder(folder, tmp_path / "out", layout=layout, report=report),
        lambda layout: caption_folder(folder, tmp_path / "out", Sizes(), SETTINGS, layout=layout, report=report),
    ):
        with pytest.raises(ValueError, match=r"2.bmp and 2.png in .* would share one text file"):
            run("official")
        assert not (tmp_path / "out").exists()
    assert measure_folder(folder, tmp_path / "out", report=report).described == 5


def test_folders_in_the_folder(folder, tmp_path, report, reports) -> None:
    """Hidden ones, links and the output are left out; `read_prompts` finds the others by their pixels."""
    for name in (".hidden", "below/deeper", "prompts"):
        (folder / name).mkdir()
        tiny_image(seed=len(name)).save(folder / name / "y.png")
    (folder / "link").symlink_to(folder / "below")
    captioner = Sizes()
    options = {"recursive": True, "report": report}
    assert caption_folder(folder, folder / "prompts", captioner, SETTINGS, **options) == Described(6, 0, 1)
    assert ("link", "is a link to a folder, which is not followed: give the folder as an input") in reports
    assert len(read_prompts(folder / "prompts", [folder / "below/x.png", folder / "below/deeper/y.png"])) == 2
    assert measure_folder(folder, tmp_path / "out", **options) == Described(7, 0, 1)
    tiny_image().save(folder / "below" / "deeper" / "x.bmp")
    with pytest.raises(ValueError, match=r"below/x.png and below/deeper/x.bmp in .* would share one text file"):
        measure_folder(folder, tmp_path / "out", layout="official", **options)
    with pytest.raises(ValueError, match=r"There is no image in .*empty or in the folders in it"):
        (tmp_path / "empty").mkdir()
        measure_folder(tmp_path / "empty", tmp_path / "out", **options)


def test_no_images(folder, tmp_path, report) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path):
        with pytest.raises(ValueError, match=rf"There is no image in {source}"):
            measure_folder(source, tmp_path / "out", report=report)
    with pytest.raises(OSError, match="nowhere"):
        measure_folder(tmp_path / "nowhere", tmp_path / "out", report=report)
    with pytest.raises(ValueError, match="layout='text', expected one of 'cache', 'official'"):
        measure_folder(folder, tmp_path / "out", layout="text", report=report)  # type: ignore[arg-type]
