"""Prompts made in advance of training: a data set of crops, some of them with what a captioner saw in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .dataset import PhotoCrops
from .hub_photos import row_name
from .made_references import SETTINGS, check_crops, crop_settings
from .photos import PhotoFiles
from .seeds import sample_generator
from .tables import read_rows

TABLE = "prompts.csv"
COLUMNS = ("tags", "quality")


def prompt_settings(crops: PhotoCrops, count: int) -> dict[str, Any]:
    """Collect what decides the first `count` samples of `crops`, which may be pairs. See `crop_settings`."""
    has_pairs = isinstance(crops.photos, PhotoFiles) and crops.photos.degraded is not None
    return {**crop_settings(crops, count), "pairs": has_pairs}


class CropsWithPrompts(Dataset[dict[str, Tensor | str]]):
    """Samples of `PhotoCrops`; for a share of them one of the first samples, with the prompts that were made from it.

    Those have as `tags` what a captioner saw in the degraded crop, and as `quality` how good it found it; `quality` is
    "" for all others. Which index gets which is drawn by the run's seed; a sample that is used again has another
    `seed`.

    Args:
        crops: the samples.
        folder: folder that training/make_prompts.py wrote.
        share: of the samples with prompts, from 0 to 1.

    Raises:
        ValueError: if the prompts were made from other crops, or some are missing; or if the crops are degraded later,
            since the prompts would then not be those of the same images.
    """

    def __init__(self, crops: PhotoCrops, folder: str | Path, share: float) -> None:
        if crops.degrade_later:
            raise ValueError("Prompts made in advance need --degradation_device worker.")
        path = Path(folder) / SETTINGS
        if not path.is_file():
            raise ValueError(f"There is no {path}: make the prompts with training/make_prompts.py.")
        count = int(json.loads(path.read_text(encoding="utf-8"))["count"])
        check_crops(path, prompt_settings(crops, count))
        table = Path(folder) / TABLE
        rows = {row["file"]: row for _, row in read_rows(table, ("file", *COLUMNS))} if table.is_file() else {}
        if missing := [row_name(number) for number in range(count) if row_name(number) not in rows]:
            raise ValueError(
                f"{len(missing)} of {count} prompts are not in {table}, the first of them {missing[0]}: run "
                "training/make_prompts.py again, which continues where it stopped."
            )
        self.crops = crops
        self.share = share
        self.prompts = [(rows[name]["tags"], rows[name]["quality"]) for name in map(row_name, range(count))]

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        generator = sample_generator(self.crops.seed, f"prompts {index}")
        if torch.rand((), generator=generator) >= self.share:
            return {**self.crops[index], "quality": ""}
        number = int(torch.randint(len(self.prompts), (), generator=generator))
        tags, quality = self.prompts[number]
        seed = torch.randint(1 << 62, (), generator=generator)
        return {**self.crops[number], "tags": tags, "quality": quality, "seed": seed}
