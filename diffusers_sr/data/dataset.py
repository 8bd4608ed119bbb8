"""Training photographs: a folder of images as an endless, seeded stream of crops."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from diffusers_sr.data.degradation import DegradationConfig, degrade, usm_sharpen
from diffusers_sr.data.references import References

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

# Decoding a photo costs more than degrading a crop of it. A folder of up to this many stays decoded in every worker;
# a larger one would fill the memory, and a photo would be thrown out before its next turn.
_MOST_DECODED_PHOTOS = 160


def list_images(folder: str | Path) -> list[Path]:
    """All images below `folder`, by path, so that an index means the same photo on every machine.

    Raises:
        ValueError: if the folder does not exist or holds no image.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(
            f"No image found in {str(folder)!r}: it has to be a folder that holds files ending in "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    return paths


def read_image(path: str | Path) -> Tensor:
    """One photo as uint8 RGB, [3, height, width]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def read_tags(path: str | Path | None) -> dict[str, str]:
    """Tags by file name, from a CSV file with the columns `file` and `tags`; none without a file.

    Raises:
        ValueError: if a column is missing.
    """
    if path is None:
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"file", "tags"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} has the columns {rows.fieldnames}; it needs 'file' and 'tags'.")
        return {row["file"]: row["tags"] for row in rows}


def split_tags(text: str) -> list[str]:
    """The tags of a comma-separated list."""
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def listed_names(path: str | Path, photos: Sequence[Path]) -> set[str]:
    """The file names that a text file lists, one a line.

    Raises:
        ValueError: if one of them is not among the photos, so that a typing error does not leak or lose a photo.
    """
    names = set(Path(path).read_text(encoding="utf-8").split("\n")) - {""}
    if missing := sorted(names - {photo.name for photo in photos}):
        raise ValueError(f"{path} lists photos that are not in the folder: {missing}.")
    return names


def training_photos(folder: str | Path, exclude: str | Path | None) -> list[Path]:
    """The images below `folder` that the text file `exclude`, if there is one, does not list.

    Raises:
        ValueError: if the folder holds no image, or not one that is listed.
    """
    paths = list_images(folder)
    excluded = set() if exclude is None else listed_names(exclude, paths)
    return [path for path in paths if path.name not in excluded]


def sample_generator(seed: int, purpose: int | str) -> torch.Generator:
    """A CPU generator for one purpose under a seed: sample `purpose` of a run, or one draw of a sample."""
    # Python hashes the text, so that neighbouring seeds and samples have nothing in common.
    return torch.Generator().manual_seed(random.Random(f"{seed}/{purpose}").getrandbits(32))


class PhotoCrops(Dataset[dict[str, Tensor | str]]):
    """Random crops of photographs, without end; sample `index` is the same whatever the number of workers.

    Every pass over the photos is a new permutation of them. A crop is flipped left to right half of the time.

    A sample holds
    - `target`: [3, crop_size, crop_size] in [0, 1];
    - `degraded` (with `degradation`): the low-resolution version, [3, crop_size / scale, crop_size / scale], in
      SeeSR's official training data that of the USM-sharpened crop, which is then the target too;
    - `reference` (with `references` and `degradation`): a crop of another photo, of the size of the target, and
      sharpened if that is;
    - `tags`: the photo's tags, "" where `tags` has none;
    - `seed`: int64, for what the training step draws for this sample (noise, timestep).

    Args:
        paths: the photos.
        crop_size: side of the square crop in pixels; a photo smaller than this raises ValueError when it is read.
        seed: seed of the run.
        degradation: how crops are degraded; None gives clean crops.
        sharpen_target: whether the crop is sharpened before it is degraded.
        scale: ratio of the target's side to the degraded crop's.
        tags: tags by file name.
        references: of every photo the others that it may be shown with, and the weights they are drawn by.

    Raises:
        ValueError: if a photo has no reference, or one that is not among the photos.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        crop_size: int,
        seed: int = 0,
        degradation: DegradationConfig | None = None,
        sharpen_target: bool = True,
        scale: int = 4,
        tags: dict[str, str] | None = None,
        references: References | None = None,
    ):
        self.paths = list(paths)
        self.crop_size = crop_size
        self.seed = seed
        self.degradation = degradation
        self.sharpen_target = sharpen_target
        self.scale = scale
        self.tags = tags or {}
        self.references = references or {}
        self._by_name = {path.name: path for path in self.paths}
        if references is not None:
            _check_references(references, self._by_name)
        self._decoded: dict[Path, Tensor] = {}

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        path = self._path(index)
        generator = sample_generator(self.seed, index)
        crop = self._crop(path, generator)
        sample: dict[str, Tensor | str] = {"target": crop, "tags": self.tags.get(path.name, "")}
        if self.degradation is not None:
            target = usm_sharpen(crop) if self.sharpen_target else crop
            sample["target"] = target
            sample["degraded"] = degrade(target, generator, self.degradation, self.scale)
            if self.references:
                reference = self._crop(self._reference_path(path, generator), generator)
                sample["reference"] = usm_sharpen(reference) if self.sharpen_target else reference
        sample["seed"] = torch.randint(1 << 62, (), generator=generator)
        return sample

    def _path(self, index: int) -> Path:
        epoch, position = divmod(index, len(self.paths))
        order = torch.randperm(len(self.paths), generator=sample_generator(self.seed, f"pass {epoch}"))
        return self.paths[int(order[position])]

    def _reference_path(self, path: Path, generator: torch.Generator) -> Path:
        names, weights = zip(*self.references[path.name].items(), strict=True)
        return self._by_name[names[int(torch.multinomial(torch.tensor(weights), 1, generator=generator))]]

    def _crop(self, path: Path, generator: torch.Generator) -> Tensor:
        image = self._decode(path)
        height, width = image.shape[-2:]
        if min(height, width) < self.crop_size:
            raise ValueError(
                f"{path} is {width}x{height} pixels, smaller than the crop of {self.crop_size}x{self.crop_size}: "
                f"remove it from the folder or lower the resolution."
            )
        top = int(torch.randint(height - self.crop_size + 1, (), generator=generator))
        left = int(torch.randint(width - self.crop_size + 1, (), generator=generator))
        crop = image[:, top : top + self.crop_size, left : left + self.crop_size].float() / 255
        return crop.flip(-1) if torch.rand((), generator=generator) < 0.5 else crop

    def _decode(self, path: Path) -> Tensor:
        if len(self.paths) > _MOST_DECODED_PHOTOS:
            return read_image(path)
        if path not in self._decoded:
            self._decoded[path] = read_image(path)
        return self._decoded[path]


def _check_references(references: References, photos: Mapping[str, Path]) -> None:
    without = sorted(name for name in photos if name not in references)
    unknown = sorted({other for name in photos for other in references.get(name, ()) if other not in photos})
    if without or unknown:
        raise ValueError(
            f"These photos have no reference: {without}. These references are not among the photos: {unknown}. "
            "Make the references of the same photos as the training (training/find_references.py)."
        )
