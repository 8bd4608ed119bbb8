"""Pairs that are made already, mixed into the crops that a trainer degrades."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..data.dataset import PhotoCrops
from ..data.degradation_mixture import Degradation
from ..data.mixed import MixedCrops
from .arguments import RestorationArguments, option
from .photos import degraded_crops
from .ranges import Share


@dataclass(kw_only=True)
class PairsArguments(RestorationArguments):
    """The options of trainers that mix in pairs: real ones of a camera, or what a strong model makes of photos."""

    pairs_lr_dir: str | None = option(None, "Folder of low-resolution pictures to mix in; needs --pairs_hr_dir.")
    pairs_hr_dir: str | None = option(
        None, "Folder of their targets, by name: photos, or the results of another model."
    )
    pairs_ratio: Share = option(0.5, "Share of samples that are pairs of these folders.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.pairs_lr_dir is None) != (self.pairs_hr_dir is None):
            raise ValueError("--pairs_lr_dir and --pairs_hr_dir belong together: give both, or neither.")


def crops_and_pairs(arguments: PairsArguments, degradation: Degradation | None = None) -> PhotoCrops | MixedCrops:
    """Make the run's samples: degraded crops, and the pairs that are mixed in, which have no texts.

    Args:
        arguments: the options.
        degradation: see `degraded_crops`.

    Raises:
        ValueError, ImportError: if `degraded_crops` or `MixedCrops` raises it.
    """
    crops = degraded_crops(arguments, degradation=degradation)
    if arguments.pairs_hr_dir is None:
        return crops
    texts: dict[str, Any] = dict.fromkeys(("tags_file", "prompts_dir", "caption_column"))
    texts["allow_missing_text"] = True
    pairs = replace(
        arguments,
        **{name: value for name, value in texts.items() if hasattr(arguments, name)},
        train_data_dir=arguments.pairs_hr_dir,
        train_lr_dir=arguments.pairs_lr_dir,
        dataset_name=None,
        train_shards_path_or_url=None,
        streaming=False,
        train_data_weights=None,
        resize_mode="crop",
        max_train_samples=None,
        exclude_data=None,
    )
    return MixedCrops(crops, degraded_crops(pairs), arguments.pairs_ratio)
