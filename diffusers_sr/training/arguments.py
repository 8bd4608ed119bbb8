"""The options of the trainers: dataclasses that a recipe or the command line fills."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from transformers import HfArgumentParser


def option(default: Any, help: str) -> Any:
    """Make a dataclass field whose `help` is also the command line's."""
    return field(default=default, metadata={"help": help})


@dataclass(kw_only=True)
class PhotoArguments:
    """Where photographs come from: a folder, a data set of `datasets`, or shards."""

    train_data_dir: str | None = option(None, "Folder of photographs to train on, searched recursively.")
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
    max_train_samples: int | None = option(None, "Maximum number of photos; the first ones are used.")
    exclude_data: str | None = option(None, "File that lists photos to leave out, one name per line.")


@dataclass(kw_only=True)
class DataArguments(PhotoArguments):
    """Where a trainer's photographs come from."""

    streaming: bool = option(
        False,
        "Read the data set while training instead of downloading it first; the samples then depend on the number "
        "of processes and loader workers.",
    )


@dataclass(kw_only=True)
class TrainingArguments(DataArguments):
    """The options of every trainer."""

    output_dir: str = field(metadata={"help": "Folder for weights and checkpoints."})
    seed: int = option(0, "Seed of the run; it determines crops, degradation, noise and initialisation.")
    resolution: int = option(512, "Side of the square training crops, in pixels.")
    train_batch_size: int = option(2, "Samples per process and batch.")
    gradient_accumulation_steps: int = option(1, "Batches whose gradients are accumulated for an optimiser step.")
    max_train_steps: int = option(100_000, "Optimiser steps.")
    learning_rate: float = option(5e-5, "Peak learning rate of AdamW.")
    lr_scheduler: str = option("constant", "Name of a schedule of diffusers.optimization.get_scheduler.")
    lr_warmup_steps: int = option(0, "Steps of linear warm-up, for schedules that have one.")
    lr_num_cycles: int = option(1, "Number of hard restarts of the schedule cosine_with_restarts.")
    lr_power: float = option(1.0, "Exponent of the schedule polynomial.")
    adam_beta1: float = option(0.9, "AdamW beta 1.")
    adam_beta2: float = option(0.999, "AdamW beta 2.")
    adam_weight_decay: float = option(1e-2, "AdamW weight decay.")
    adam_epsilon: float = option(1e-8, "AdamW epsilon.")
    use_8bit_adam: bool = option(False, "Use the AdamW of bitsandbytes, whose state takes a quarter of the memory.")
    max_grad_norm: float = option(1.0, "Norm to which gradients are clipped.")
    ema_decay: float = option(
        0.0, "Decay of an exponential moving average of the weights; with 0 the last weights are saved."
    )
    mixed_precision: str | None = option(
        None, "Autocast type: no, fp16 or bf16; by default that of accelerate's configuration."
    )
    allow_tf32: bool = option(False, "Compute matrix products in TF32 where the GPU supports it: faster, less exact.")
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    dataloader_num_workers: int = option(
        0, "Worker processes that read and degrade photos; their number does not change the samples."
    )
    checkpointing_steps: int = option(500, "Steps between two checkpoints to resume from.")
    checkpoints_total_limit: int = option(2, "Number of checkpoints to keep; older ones are removed.")
    resume_from_checkpoint: str | None = option(None, 'Checkpoint folder to resume from, or "latest".')
    log_every: int = option(50, "Steps between two log lines.")
    report_to: list[str] = field(
        default_factory=list,
        metadata={"help": "Trackers of accelerate to log to, such as tensorboard and wandb, or all."},
    )
    validation_images: str | None = option(None, "Folder of images to enlarge during training, to look at.")
    validation_steps: int = option(
        500, "Steps after which they are enlarged each time; they are also enlarged at the end."
    )
    num_validation_images: int = option(4, "Number of validation images to enlarge: the first ones by name.")


@dataclass(kw_only=True)
class RestorationArguments(TrainingArguments):
    """The options of the trainers on degraded photographs."""

    tags_file: str | None = option(
        None, "CSV file with the columns file and tags: tags or captions of the clean photos."
    )
    sharpen_target: bool = option(True, "Train towards USM-sharpened photos, as the official data does.")
    train_lr_dir: str | None = option(
        None,
        "Folder of low-resolution versions of the photos in train_data_dir, by name, to use instead of degrading.",
    )
    degradation_device: str = option(
        "worker", "Where photos are sharpened and degraded: worker (on a CPU, while loading) or accelerator (the GPU)."
    )


Arguments = TypeVar("Arguments", bound=TrainingArguments)


def parse_arguments(kind: type[Arguments], argv: Sequence[str] | None = None) -> Arguments:
    """Read the command line into a dataclass; `--config recipe.yaml` gives defaults that other options override.

    Raises:
        ValueError: if the recipe names an option the trainer does not have, or gives one value where a list belongs.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(kind)
    parser.add_argument("--config", help="YAML file with values of options.")
    if "--config" in argv:
        import yaml

        recipe = yaml.safe_load(Path(argv[argv.index("--config") + 1]).read_text())
        actions = {action.dest: action for action in parser._actions}
        if unknown := sorted(set(recipe) - set(actions)):
            raise ValueError(f"Unknown options {unknown} in the recipe; allowed are {sorted(actions)}.")
        for name, value in recipe.items():
            if actions[name].nargs == "+" and not isinstance(value, list):
                raise ValueError(f"{name} is {value!r} in the recipe, but has to be a list: [{value}].")
            actions[name].required = False
        parser.set_defaults(**recipe)
    namespace = vars(parser.parse_args(argv))
    namespace.pop("config")
    return kind(**namespace)
