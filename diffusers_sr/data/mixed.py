"""Samples from two sources in one run."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from .dataset import PhotoCrops
from .seeds import sample_generator


class MixedCrops(Dataset[dict[str, torch.Tensor | str]]):
    """Samples of one source, and for a share of the indices of another, which chance draws.

    Sample `index` is sample `index` of the source that is drawn for it, whatever the number of workers.

    Args:
        first: samples whose photos are degraded while they are read.
        second: samples that replace the share of them, such as pairs whose targets another model made.
        share: of the second source, from 0 to 1.

    Raises:
        ValueError: if the crops of the two differ in size, or those of the first are degraded later.
    """

    def __init__(self, first: PhotoCrops, second: PhotoCrops, share: float) -> None:
        if first.crop_size != second.crop_size:
            raise ValueError(f"Crops of {first.crop_size} and of {second.crop_size} pixels cannot be one batch.")
        if first.degrade_later:
            raise ValueError(
                "Photos cannot be degraded on the accelerator if pairs, which are degraded already, are among them: "
                "use --degradation_device worker."
            )
        self.first = first
        self.second = second
        self.share = share

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        drawn = torch.rand((), generator=sample_generator(self.first.seed, f"source/{index}"))
        return self.second[index] if drawn < self.share else self.first[index]
