"""References made in advance of training: which crops they belong to, and a data set of these crops with them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .dataset import PhotoCrops
from .degradation_settings import DegradationConfig
from .photos import PhotoFiles, read_image
from .seeds import sample_generator

SETTINGS = "crops.json"
_ADDED = {"degradation": asdict(DegradationConfig()), "resize_mode": "crop", "weights": None}
"""Settings that older folders do not record, and what they were then."""
_NAMES = {"photos": "other photos", "degradation": "another degradation", "weights": "other weights of the folders"}


def reference_path(folder: Path, index: int) -> Path:
    """Give the path of the reference of sample `index`."""
    return folder / f"{index:08d}.png"


def crop_settings(crops: PhotoCrops, count: int) -> dict[str, Any]:
    """Collect what decides the first `count` samples of `crops`: equal settings give equal crops, equally degraded."""
    return {
        "count": count,
        "photos": list(crops.names),
        "crop_size": crops.crop_size,
        "seed": crops.seed,
        "sharpen_target": crops.sharpen_target,
        "scale": crops.scale,
        "degradation": None if crops.degradation is None else asdict(crops.degradation),
        "resize_mode": crops.resize_mode,
        "weights": _weights(crops),
    }


def _weights(crops: PhotoCrops) -> list[list[float]] | None:
    groups = crops.photos.groups if isinstance(crops.photos, PhotoFiles) else None
    return None if groups is None else [[len(group.numbers), group.weight] for group in groups]


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Record which crops the references or prompts in `folder` belong to.

    Raises:
        ValueError: if the folder holds those of other crops.
    """
    path = folder / SETTINGS
    if path.is_file():
        check_crops(path, settings)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings) + "\n", encoding="utf-8")


class CropsWithReferences(Dataset[dict[str, Tensor | str]]):
    """The first samples of `PhotoCrops`, over and over, each with the `reference` that was made from it.

    A sample is the same as in `PhotoCrops`, except for its `seed`, which is different in each pass.

    Args:
        crops: the samples; its own references, if it has any, are not used.
        folder: folder that training/make_references.py wrote.

    Raises:
        ValueError: if the references were made from other crops or one of them is missing; or if the crops are
            degraded later or not degraded at all, since the references would then not be those of the same images.
    """

    def __init__(self, crops: PhotoCrops, folder: str | Path) -> None:
        if crops.degrade_later:
            raise ValueError("References made in advance need --degradation_device worker.")
        if isinstance(crops.photos, PhotoFiles) and crops.photos.degraded is not None:
            raise ValueError("References made in advance belong to degraded crops: leave out --train_lr_dir.")
        folder = Path(folder)
        path = folder / SETTINGS
        if not path.is_file():
            raise ValueError(f"There is no {path}: make the references with training/make_references.py.")
        self.crops = crops
        self.folder = folder
        self.count = int(json.loads(path.read_text(encoding="utf-8"))["count"])
        check_crops(path, crop_settings(crops, self.count))
        missing = [index for index in range(self.count) if not reference_path(folder, index).is_file()]
        if missing:
            raise ValueError(
                f"{len(missing)} of {self.count} references are not in {folder}, the first of them "
                f"{reference_path(folder, missing[0]).name}: run training/make_references.py again, which continues "
                "where it stopped."
            )

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        number = index % self.count
        sample = self.crops[number]
        sample["reference"] = read_image(reference_path(self.folder, number)).float() / 255
        sample["seed"] = torch.randint(1 << 62, (), generator=sample_generator(self.crops.seed, f"noise {index}"))
        return sample


def check_crops(path: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError if what is beside `path` was made from crops of other settings than these."""
    made = _ADDED | json.loads(path.read_text(encoding="utf-8"))
    # As they are read: a tuple becomes a list.
    made, now = (json.loads(json.dumps(each)) for each in (made, settings))
    different = [name for name in now if made.get(name) != now[name]]
    if different:
        shown = ", ".join(
            _NAMES.get(name) or f"{name} {made.get(name)!r} instead of {now[name]!r}" for name in different
        )
        raise ValueError(
            f"What is beside {path} was made from other crops, with {shown}: give the options it was made with, or "
            "another folder."
        )
