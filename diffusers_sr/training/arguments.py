"""The options of the trainers: dataclasses that a recipe or the command line fills."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Annotated, Any, NoReturn, TypeVar

from diffusers.optimization import SchedulerType
from transformers import HfArgumentParser

from ..data.degradation_mixture import DEGRADATIONS
from ..data.squares import RESIZE_MODES
from .ranges import Count, CountFromZero, Decay, OneOf, Range, Weight, check_options
from .recipe import read_recipe


def option(default: Any, help: str) -> Any:
    """Make a dataclass field whose `help` is also the command line's."""
    return field(default=default, metadata={"help": help})


@dataclass(kw_only=True)
class PhotoArguments:
    """Where photographs come from: a folder, a data set of `datasets`, or shards."""

    train_data_dir: list[str] | str | None = field(
        default=None,
        metadata={"help": "Folder of photographs to train on, searched recursively; or several.", "nargs": "+"},
    )
    dataset_name: str | None = option(None, "Instead: a data set on the Hub, or a folder that `datasets` loads.")
    dataset_config_name: str | None = option(None, "Configuration of the data set, if it has several.")
    dataset_split: str = option("train", "Split of the data set.")
    image_column: str = option("image", "Column of the data set that holds the images.")
    caption_column: str | None = option(
        None, "Column with captions or lists of tags; by default no captions are read."
    )
    train_shards_path_or_url: str | None = option(
        None, "Instead: WebDataset shards, a local folder of .tar files or a pattern that matches them."
    )
    max_train_samples: Count | None = option(None, "Maximum number of photos; the first ones are used.")
    exclude_data: str | None = option(None, "File that lists photos to leave out, one name per line.")
    resize_mode: Annotated[str, OneOf(RESIZE_MODES)] = option(
        "crop",
        "How photos become square: crop (those that are too small are skipped), resize (stretched) or resize_crop "
        "(the shorter side is resized, and the centre taken).",
    )

    def __post_init__(self) -> None:
        """Check all options, those of subclasses too. Raises ValueError if one has a value that is not allowed."""
        if isinstance(self.train_data_dir, list) and len(self.train_data_dir) == 1:
            (self.train_data_dir,) = self.train_data_dir  # as runs with one folder record it
        check_options(self)

    @property
    def photo_folders(self) -> list[str]:
        """The folders of `train_data_dir`."""
        if self.train_data_dir is None:
            return []
        return [self.train_data_dir] if isinstance(self.train_data_dir, str) else self.train_data_dir


@dataclass(kw_only=True)
class DataArguments(PhotoArguments):
    """Where a trainer's photographs come from."""

    train_data_weights: list[Annotated[float, Range(0, above=True)]] | None = option(
        None,
        "Weights of the folders of train_data_dir, by which chance draws the folder of each sample; by default all "
        "photos are drawn equally often.",
    )
    streaming: bool = option(
        False,
        "Read the data set while training instead of downloading it first, and shards from beginning to end, for "
        "disks on the network; the samples then depend on the number of processes and loader workers.",
    )


@dataclass(kw_only=True)
class TrainingArguments(DataArguments):
    """The options of every trainer."""

    output_dir: str = field(metadata={"help": "Folder for weights and checkpoints."})
    seed: Annotated[int, Range(0, 2**32 - 1)] = option(
        0, "Seed of the run; it determines crops, degradation, noise and initialisation."
    )
    resolution: Count = option(512, "Side of the square training crops, in pixels.")
    train_batch_size: Count = option(2, "Samples per process and batch.")
    gradient_accumulation_steps: Count = option(1, "Batches whose gradients are accumulated for an optimiser step.")
    max_train_steps: Count = option(100_000, "Optimiser steps.")
    learning_rate: Weight = option(5e-5, "Peak learning rate of AdamW.")
    lr_scheduler: Annotated[str, OneOf(tuple(each.value for each in SchedulerType))] = option(
        "constant", "Name of a schedule of diffusers.optimization.get_scheduler."
    )
    lr_warmup_steps: CountFromZero = option(0, "Steps of linear warm-up, for schedules that have one.")
    lr_num_cycles: Count = option(1, "Number of hard restarts of the schedule cosine_with_restarts.")
    lr_power: Weight = option(1.0, "Exponent of the schedule polynomial.")
    adam_beta1: Decay = option(0.9, "AdamW beta 1.")
    adam_beta2: Decay = option(0.999, "AdamW beta 2.")
    adam_weight_decay: Weight = option(1e-2, "AdamW weight decay.")
    adam_epsilon: Weight = option(1e-8, "AdamW epsilon.")
    use_8bit_adam: bool = option(False, "Use the AdamW of bitsandbytes, whose state takes a quarter of the memory.")
    max_grad_norm: Annotated[float, Range(0, math.inf, above=True)] = option(
        1.0, "Norm to which gradients are clipped."
    )
    skip_nonfinite: CountFromZero = option(
        0,
        "Number of optimiser steps that are left out if their loss or gradient is not finite; the next ends the run.",
    )
    ema_decay: Decay = option(
        0.0, "Decay of an exponential moving average of the weights; with 0 the last weights are saved."
    )
    mixed_precision: Annotated[str, OneOf(("no", "fp16", "bf16", "fp8"))] | None = option(
        None, "Autocast type: no, fp16 or bf16; by default that of accelerate's configuration."
    )
    frozen_weights_dtype: Annotated[str, OneOf(("fp32", "bf16"))] = option(
        "fp32",
        "Type that frozen weights of linear layers and convolutions are stored in: fp32 or bf16, which saves half of "
        "their memory and changes no result, as --mixed_precision bf16, which it needs, rounds them anyway.",
    )
    compile: bool = option(
        False, "Compile transformer blocks with torch.compile: the first step takes minutes, the others less time."
    )
    allow_tf32: bool = option(False, "Compute matrix products in TF32 where the GPU supports it: faster, less exact.")
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    dataloader_num_workers: CountFromZero = option(
        0, "Worker processes that read and degrade photos; their number does not change the samples."
    )
    checkpointing_steps: Count = option(500, "Steps between two checkpoints to resume from.")
    checkpoints_total_limit: Count = option(2, "Number of checkpoints to keep; older ones are removed.")
    resume_from_checkpoint: str | None = option(None, 'Checkpoint folder to resume from, or "latest".')
    log_every: Count = option(50, "Steps between two log lines.")
    report_to: list[str] = field(
        default_factory=list,
        metadata={"help": "Trackers of accelerate to log to, such as tensorboard and wandb, or all."},
    )
    validation_images: str | None = option(
        None, "Folder of images to enlarge during training, to look at: the middle of each, as large as a crop."
    )
    validation_hr_dir: str | None = option(
        None,
        "Folder of the photos that these are small versions of, by name: PSNR, SSIM and HaarPSI of the results are "
        "logged.",
    )
    validation_steps: Count = option(
        500, "Steps after which they are enlarged each time; they are also enlarged at the end."
    )
    validation_upscale: Annotated[float, Range(0, math.inf, above=True)] = option(
        4.0, "How many times wider and higher the results are."
    )
    validation_crop_size: Count | None = option(
        None, "Side of the results: the square in the middle of each image is enlarged; by default --resolution."
    )
    validation_num_inference_steps: Count | None = option(
        None, "Denoising steps of each result, fewer for a quick look; by default those of the pipeline."
    )
    num_validation_images: Count = option(4, "Number of validation images to enlarge: the first ones by name.")


@dataclass(kw_only=True)
class DegradationArguments(TrainingArguments):
    """The option of the trainers that degrade photographs."""

    degradation: Annotated[str, OneOf(tuple(DEGRADATIONS))] = option("seesr", "How photos are degraded.")


@dataclass(kw_only=True)
class RestorationArguments(DegradationArguments):
    """The options of the trainers on degraded photographs."""

    sharpen_target: bool = option(True, "Train towards USM-sharpened photos, as the official data does.")
    train_lr_dir: str | None = option(
        None,
        "Folder of low-resolution versions of the photos in train_data_dir, by name, to use instead of degrading.",
    )
    degradation_device: str = option(
        "worker", "Where photos are sharpened and degraded: worker (on a CPU, while loading) or accelerator (the GPU)."
    )


Arguments = TypeVar("Arguments", bound=PhotoArguments)


class OptionParser(HfArgumentParser):
    """A parser of a trainer's options whose errors are one line, without a hundred lines of usage.

    The word none leaves out an option that is left out by default, or an empty list, which a recipe may give.
    """

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if arg_string == "none" and action.dest in self._left_out:
            return None
        return super()._get_value(action, arg_string)

    @cached_property
    def _left_out(self) -> set[str]:
        every = [each for kind in self.dataclass_types for each in fields(kind)]
        return {each.name for each in every if each.default is None or each.default_factory is list}

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        print(f"{self.prog}: error: {message} (--help explains the options)", file=sys.stderr)
        raise SystemExit(2)


def parse_arguments(kind: type[Arguments], argv: Sequence[str] | None = None, **parser_options: Any) -> Arguments:
    """Read the options into a dataclass; `--config recipe.yaml` gives defaults that other options override.

    `--option none` leaves out what a recipe gives, if the option is left out by default.

    Args:
        kind: the dataclass.
        argv: the words of the command line; by default those of the process, which then ends with status 2 and one
            line instead of a ValueError.
        parser_options: arguments of `argparse.ArgumentParser`.

    Raises:
        ValueError: if the recipe cannot be used (see `read_recipe`), or the dataclass does not allow a value.
        SystemExit: with status 2 if argparse cannot read the options, and 0 after `--help`.
    """
    parser = OptionParser(kind, **parser_options)
    try:
        return _parse(parser, kind, argv)
    except ValueError as error:
        if argv is not None:
            raise
        parser.error(str(error))


def _parse(parser: OptionParser, kind: type[Arguments], argv: Sequence[str] | None) -> Arguments:
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    parser.add_argument("--config", action="append", default=[], help="YAML file with values of options.")
    # What is required may be in the recipe, whose name has to be read first.
    required = [action for action in actions.values() if action.required]
    for action in required:
        action.required = False
    configs = parser.parse_args(argv).config
    if len(configs) > 1:
        raise ValueError(f"--config is given more than once, {configs}: write one recipe.")
    recipe = read_recipe(configs[0], actions) if configs else {}
    parser.set_defaults(**recipe)
    for action in required:
        action.required = action.dest not in recipe
    namespace = vars(parser.parse_args(argv))
    namespace.pop("config")
    return kind(**{name: [] if value == [None] else value for name, value in namespace.items()})
