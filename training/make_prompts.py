"""Have a captioner describe XPSR's training crops, degraded, as it describes photos that are enlarged.

    accelerate launch training/make_prompts.py --train_data_dir PHOTOS --num_samples 100000 \
        --captioner llava-hf/llava-1.5-7b-hf --output_dir sample_prompts

train_xpsr.py takes the folder as --sample_prompts_dir. Several processes share the work, and an interrupted run
continues where it stopped. The options that determine the crops have to be those of the training: where the photos
come from, --train_lr_dir, --seed, --resolution, --resize_mode, --degradation and --sharpen_target.
"""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import torch
from torch import Tensor

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_mixture import DEGRADATIONS
from diffusers_sr.data.hub_photos import row_name
from diffusers_sr.data.made_prompts import COLUMNS, TABLE, prompt_settings
from diffusers_sr.data.made_references import write_settings
from diffusers_sr.data.shared_table import Cells
from diffusers_sr.image.pictures import to_picture
from diffusers_sr.training.arguments import PhotoArguments, RestorationArguments, option, parse_arguments
from diffusers_sr.training.descriptions import Describe, load_captioner, processes, write_descriptions
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.ranges import Count, CountFromZero, OneOf, Range
from diffusers_sr.training.script import run_script
from diffusers_sr.xpsr.captioner import PAPER_MODEL


@dataclass(kw_only=True)
class PromptsArguments(PhotoArguments):
    """The options: which crops are described, and what describes them."""

    output_dir: str = field(metadata={"help": "Folder to write."})
    num_samples: Count = field(metadata={"help": "Number of training samples that get prompts."})
    train_lr_dir: str | None = option(None, "Folder of low-resolution versions of the photos, as in the training.")
    seed: Annotated[int, Range(0, 2**32 - 1)] = option(0, "Seed of the training.")
    resolution: Count = option(512, "Side of the crops, in pixels.")
    sharpen_target: bool = option(True, "Degrade USM-sharpened crops.")
    degradation: Annotated[str, OneOf(tuple(DEGRADATIONS))] = option(
        "seesr", "How photos are degraded, as in the training."
    )
    captioner: str = option(PAPER_MODEL, "An image-text-to-text model with a chat template: a folder or a Hub id.")
    batch_size: Count = option(8, "Crops that are described at once.")
    num_workers: CountFromZero = option(
        0, "Processes that read and degrade photos, for each process that describes them."
    )


def training_crops(arguments: PromptsArguments) -> PhotoCrops:
    """Make the crops of a training with these options."""
    known = {each.name for each in fields(RestorationArguments)}
    return degraded_crops(RestorationArguments(**{name: vars(arguments)[name] for name in known & {*vars(arguments)}}))


def degraded(crops: PhotoCrops, number: int) -> Tensor:
    return cast(Tensor, crops[number]["degraded"])


def prompts_of(model: str, device: torch.device) -> Describe:
    """Load the captioner."""
    captioner = load_captioner(model, device)

    def describe(names: Sequence[str], images: Sequence[Tensor]) -> list[list[Cells]]:
        return [[(each.high_level, each.low_level)] for each in captioner([*map(to_picture, images)])]

    return describe


def main(argv: Sequence[str] | None = None) -> None:
    """Describe the samples that have no prompts yet.

    Raises:
        ValueError: if `degraded_crops` raises it, or the folder has prompts of other crops or another captioner.
        OSError: if the captioner cannot be loaded.
    """
    arguments = parse_arguments(
        PromptsArguments, argv, description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    crops = training_crops(arguments)
    folder = Path(arguments.output_dir)
    with processes().main_process_first():
        write_settings(folder, prompt_settings(crops, arguments.num_samples))
    write_descriptions(
        folder / TABLE,
        COLUMNS,
        {"captioner": arguments.captioner},
        [row_name(number) for number in range(arguments.num_samples)],
        partial(degraded, crops),
        partial(prompts_of, arguments.captioner),
        arguments.batch_size,
        arguments.num_workers,
    )


if __name__ == "__main__":
    run_script(main)
