"""Prompts of training samples: which samples get them, and that they are those of the same crops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.made_prompts import CropsWithPrompts
from diffusers_sr.training.arguments import RestorationArguments
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.xpsr import TrainableXPSR
from diffusers_sr.xpsr.degradation_prompt import describe_degradation
from diffusers_sr.xpsr.prompts import ImagePrompts
from tests.data.samples import tensor
from tests.training.runs import script, write_noise_photos
from tests.training.stages import build


class Averages:
    """A captioner that names an image's size, and the average of its red channel."""

    def __call__(self, images: list[Image.Image]) -> list[ImagePrompts]:
        return [ImagePrompts(f"{each.width}x{each.height}", average(each)) for each in images]


def average(image: Image.Image) -> str:
    red = image.getchannel("R")
    return f"{sum(red.tobytes()) / (red.width * red.height):.3f}"


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    write_noise_photos(tmp_path / "photos", 3, 48)
    return {"train_data_dir": str(tmp_path / "photos"), "resolution": 32, "seed": 3}


@pytest.fixture
def prompts(tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    module = script("make_prompts")
    monkeypatch.setattr(module, "load_captioner", lambda *_: Averages())
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    module.main([*words, "--output_dir", str(tmp_path / "prompts"), "--num_samples", "5", "--batch_size", "2"])
    return tmp_path / "prompts"


def crops_of(options: dict[str, Any], **others: Any) -> PhotoCrops:
    return degraded_crops(RestorationArguments(output_dir="unused", **{**options, **others}))


def test_a_share_of_the_samples_has_the_prompts_of_its_own_crop(options: dict[str, Any], prompts: Path) -> None:
    crops = crops_of(options)
    dataset = CropsWithPrompts(crops, prompts, 0.5)
    samples = [dataset[index] for index in range(60)]
    described = [sample for sample in samples if sample["quality"]]
    assert len(described) == 37  # drawn by the seed
    assert len({sample["quality"] for sample in described}) == 5
    assert len({int(sample["seed"]) for sample in samples}) == 60
    for sample in described:
        assert sample["tags"] == "8x8"
        red = (tensor(sample, "degraded")[0] * 255).round()
        assert float(str(sample["quality"])) == pytest.approx(float(red.mean()), abs=1e-3)
    for index, sample in enumerate(samples):
        if not sample["quality"]:
            assert torch.equal(tensor(sample, "target"), tensor(crops[index], "target"))
    assert not any(CropsWithPrompts(crops, prompts, 0)[index]["quality"] for index in range(9))


def test_prompts_of_other_crops_are_refused(options: dict[str, Any], prompts: Path) -> None:
    with pytest.raises(ValueError, match="was made from other crops, with seed 3"):
        CropsWithPrompts(crops_of(options, seed=4), prompts, 0.5)
    with pytest.raises(ValueError, match="need --degradation_device worker"):
        CropsWithPrompts(crops_of(options, degradation_device="accelerator"), prompts, 0.5)
    table = prompts / "prompts.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"1 of 5 prompts are not in .*, the first of them 00000004: run"):
        CropsWithPrompts(crops_of(options), prompts, 0.5)
    table.unlink()
    with pytest.raises(ValueError, match="5 of 5 prompts"):
        CropsWithPrompts(crops_of(options), prompts, 0.5)
    with pytest.raises(ValueError, match=r"make the prompts with training/make_prompts\.py"):
        CropsWithPrompts(crops_of(options), prompts / "none", 0.5)


def test_the_quality_of_a_sample_is_its_low_level_prompt() -> None:
    denoiser = build("xpsr").denoiser
    assert isinstance(denoiser, TrainableXPSR)
    denoiser.clean_ratio = 1.0
    batch = build("xpsr").batch()
    batch["quality"] = ["a bit noisy"] + [""] * (len(batch["tags"]) - 1)
    conditions, prompts = denoiser.condition(batch)
    assert prompts[0] == "a bit noisy"
    assert prompts[1].split(", ")[:3] == describe_degradation(batch["target"][1]).split(", ")[:3]
    assert torch.equal(conditions[1], batch["target"][1]) and not torch.equal(conditions[0], batch["target"][0])
