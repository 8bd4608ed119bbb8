"""The engine the trainers share: arguments, optimisation loop, checkpoints that resume exactly."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import HfArgumentParser

from .data.dataset import PhotoCrops, read_tags, training_photos
from .data.degradation import DegradationConfig
from .data.references import References

logger = logging.getLogger(__name__)

TRAINABLE_FILE = "trainable.safetensors"


def option(default: Any, help: str) -> Any:
    """A dataclass field whose `help` is also the command line's."""
    return field(default=default, metadata={"help": help})


@dataclass(kw_only=True)
class TrainingArguments:
    """What every trainer takes."""

    train_data_dir: str = field(metadata={"help": "Folder of photographs to train on, searched recursively."})
    output_dir: str = field(metadata={"help": "Where weights and checkpoints go."})
    seed: int = option(0, "Seed of the run: crops, degradation, noise and initialisation follow from it.")
    resolution: int = option(512, "Side of the square training crops, in pixels.")
    train_batch_size: int = option(2, "Samples per process and step.")
    gradient_accumulation_steps: int = option(1, "Batches summed before an optimiser step.")
    max_train_steps: int = option(100_000, "Optimiser steps.")
    learning_rate: float = option(5e-5, "Peak learning rate of AdamW.")
    lr_scheduler: str = option("constant", "A schedule of diffusers.optimization.get_scheduler.")
    lr_warmup_steps: int = option(0, "Steps of linear warm-up, for schedules that have one.")
    adam_beta1: float = option(0.9, "AdamW beta 1.")
    adam_beta2: float = option(0.999, "AdamW beta 2.")
    adam_weight_decay: float = option(1e-2, "AdamW weight decay.")
    adam_epsilon: float = option(1e-8, "AdamW epsilon.")
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm.")
    ema_decay: float = option(0.0, "Decay of an exponential moving average of the weights; 0 saves the last weights.")
    mixed_precision: str | None = option(None, "Autocast type: no, fp16 or bf16; by default as accelerate is set up.")
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    dataloader_num_workers: int = option(0, "Worker processes that read and degrade; does not change the samples.")
    checkpointing_steps: int = option(500, "A checkpoint to resume from is written every so many steps.")
    checkpoints_total_limit: int = option(2, "Older checkpoints beyond this number are removed.")
    resume_from_checkpoint: str | None = option(None, 'A checkpoint folder, or "latest".')
    exclude_data: str | None = option(None, "File that lists photos, one name a line, to leave out of training.")
    log_every: int = option(50, "Steps between two log lines.")
    report_to: str | None = option(None, "Tracker of accelerate, such as tensorboard.")


@dataclass(kw_only=True)
class RestorationArguments(TrainingArguments):
    """What trainers on degraded photographs take."""

    tags_file: str | None = option(None, "CSV with the columns file and tags: tags or captions of the clean photos.")
    sharpen_target: bool = option(True, "Train towards USM-sharpened photos, as the official data does.")


Arguments = TypeVar("Arguments", bound=TrainingArguments)


def parse_arguments(kind: type[Arguments], argv: Sequence[str] | None = None) -> Arguments:
    """Command line to dataclass; `--config recipe.yaml` gives defaults that the other options override.

    Raises:
        ValueError: if the recipe names an option the trainer does not have.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(kind)
    parser.add_argument("--config", help="YAML file of options.")
    if "--config" in argv:
        import yaml

        recipe = yaml.safe_load(Path(argv[argv.index("--config") + 1]).read_text())
        actions = {action.dest: action for action in parser._actions}
        if unknown := sorted(set(recipe) - set(actions)):
            raise ValueError(f"Unknown options {unknown} in the recipe; allowed are {sorted(actions)}.")
        for name in recipe:
            actions[name].required = False
        parser.set_defaults(**recipe)
    namespace = vars(parser.parse_args(argv))
    namespace.pop("config")
    return kind(**namespace)


def photo_crops(arguments: TrainingArguments, **options: Any) -> PhotoCrops:
    """The run's samples: crops of the photos in `train_data_dir` that `exclude_data` does not list.

    Args:
        options: the further arguments of `PhotoCrops`.

    Raises:
        ValueError: if a listed photo is not in the folder.
    """
    paths = training_photos(arguments.train_data_dir, arguments.exclude_data)
    return PhotoCrops(paths, arguments.resolution, arguments.seed, **options)


def degraded_crops(arguments: RestorationArguments, references: References | None = None) -> PhotoCrops:
    """The run's samples, degraded by the Real-ESRGAN recipe of SeeSR, with their tags and perhaps references.

    Raises:
        ValueError: as `photo_crops`, `read_tags` and `PhotoCrops` do.
    """
    return photo_crops(
        arguments,
        degradation=DegradationConfig(),
        sharpen_target=arguments.sharpen_target,
        tags=read_tags(arguments.tags_file),
        references=references,
    )


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters an optimiser has to move, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def train(
    module: nn.Module,
    dataset: Dataset[Any],
    arguments: TrainingArguments,
    save: Callable[[Path], None],
) -> None:
    """Optimises `module` and saves it.

    Args:
        module: one module that holds everything the step needs; `module(batch)` returns the losses by name,
            each a scalar tensor; their sum is minimised. Parameters with `requires_grad` are trained. It is one
            module because distributed data parallelism only synchronises what runs through its own forward.
        dataset: `dataset[index]` for every index from 0 on: the run's samples, in order.
        save: writes the finished weights to a folder (called on the main process, with averaged weights if
            `ema_decay` is set). It may fail and be tried again: the last checkpoint is the finished state.

    Raises:
        ValueError: if the output folder holds checkpoints that this run would overwrite, or there is nothing to
            resume from.
        RuntimeError: if the loss is not finite.
    """
    output_dir = Path(arguments.output_dir)
    accelerator = Accelerator(
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        mixed_precision=arguments.mixed_precision,
        log_with=arguments.report_to,
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / "logs")),
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parameters = trainable_parameters(module)
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=arguments.learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        weight_decay=arguments.adam_weight_decay,
        eps=arguments.adam_epsilon,
    )
    # accelerate steps a prepared schedule once per process, so the schedule counts steps of all processes.
    schedule = get_scheduler(
        arguments.lr_scheduler,
        optimizer,
        num_warmup_steps=arguments.lr_warmup_steps * accelerator.num_processes,
        num_training_steps=arguments.max_train_steps * accelerator.num_processes,
    )
    prepared, optimizer, schedule = accelerator.prepare(module, optimizer, schedule)
    average = EMAModel(parameters.values(), decay=arguments.ema_decay) if arguments.ema_decay else None
    if average is not None:
        accelerator.register_for_checkpointing(average)
    _checkpoint_trainable_only(accelerator, parameters)
    if arguments.report_to:
        accelerator.init_trackers("diffusers-sr", config={k: str(v) for k, v in vars(arguments).items()})

    first_step = _resume(accelerator, arguments)
    if average is not None:
        average.to(accelerator.device)  # after resuming, which leaves it on the CPU
    accelerator.print(
        f"{sum(p.numel() for p in parameters.values()):,} trainable parameters in {len(parameters)} tensors, "
        f"steps {first_step} to {arguments.max_train_steps}, {accelerator.num_processes} process(es)"
    )
    prepared.train()
    step, clock, running, count = first_step, time.perf_counter(), dict[str, float](), 0
    for batch in _batches(dataset, arguments, accelerator, first_step):
        with accelerator.accumulate(prepared):
            losses = prepared(batch)
            loss = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(loss):
                raise RuntimeError(f"The loss of step {step} is {loss.item()}; the last checkpoint is kept.")
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(parameters.values(), arguments.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        count += 1
        for name, value in losses.items():
            running[name] = running.get(name, 0.0) + float(value.detach())
        if not accelerator.sync_gradients:
            continue
        step += 1
        if average is not None:
            average.step(parameters.values())
        if step % arguments.log_every == 0:
            values = {name: value / count for name, value in running.items()}
            seconds = (time.perf_counter() - clock) / count * arguments.gradient_accumulation_steps
            accelerator.log(values, step=step)
            accelerator.print(
                f"step {step} "
                + " ".join(f"{name} {value:.5f}" for name, value in values.items())
                + f" lr {schedule.get_last_lr()[0]:.2e} {seconds:.2f} s/step",
                flush=True,
            )
            clock, running, count = time.perf_counter(), {}, 0
        if step % arguments.checkpointing_steps == 0 or step == arguments.max_train_steps:
            _save_checkpoint(accelerator, arguments, step)

    if average is not None:
        average.copy_to(parameters.values())
    if accelerator.is_main_process:
        # Complete before it takes the place of an earlier result.
        with tempfile.TemporaryDirectory(dir=output_dir, prefix="unfinished-") as unfinished:
            save(Path(unfinished))
            Path(unfinished, "training_arguments.json").write_text(json.dumps(vars(arguments), indent=2) + "\n")
            shutil.copytree(unfinished, output_dir, dirs_exist_ok=True)
    accelerator.end_training()


def _batches(
    dataset: Dataset[Any], arguments: TrainingArguments, accelerator: Accelerator, first_step: int
) -> Iterator[dict[str, Any]]:
    """Batches from optimiser step `first_step` on: the stream of samples is cut, never re-drawn."""
    per_step = arguments.gradient_accumulation_steps * arguments.train_batch_size * accelerator.num_processes
    rest = Subset(dataset, range(first_step * per_step, arguments.max_train_steps * per_step))
    loader = DataLoader(
        rest,
        batch_size=arguments.train_batch_size,
        num_workers=arguments.dataloader_num_workers,
        # A loader draws a seed for its workers. Not from the global generator: a resumed run draws it once more.
        generator=torch.Generator(),
        pin_memory=accelerator.device.type == "cuda",
    )
    yield from accelerator.prepare(loader)


def _checkpoint_trainable_only(accelerator: Accelerator, parameters: dict[str, nn.Parameter]) -> None:
    """Checkpoints hold what trains: frozen weights are the base model's and need no second copy."""

    def save(models: list[nn.Module], weights: list[Any], output_dir: str) -> None:
        if accelerator.is_main_process:
            tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}
            save_file(tensors, Path(output_dir) / TRAINABLE_FILE)
        weights.clear()

    def load(models: list[nn.Module], input_dir: str) -> None:
        tensors = load_file(Path(input_dir) / TRAINABLE_FILE)
        if tensors.keys() != parameters.keys():
            raise ValueError(f"The checkpoint {input_dir} holds other parameters than this run trains.")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name])
        models.clear()

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def _checkpoints(output_dir: Path) -> list[Path]:
    return sorted(output_dir.glob("checkpoint-*"), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _save_checkpoint(accelerator: Accelerator, arguments: TrainingArguments, step: int) -> None:
    output_dir = Path(arguments.output_dir)
    # Under a temporary name first: an interrupted save must not look like the latest checkpoint.
    unfinished = output_dir / "unfinished-checkpoint"
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    # Every process writes its own random state into the folder.
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        unfinished.rename(output_dir / f"checkpoint-{step}")
        for old in _checkpoints(output_dir)[: -arguments.checkpoints_total_limit]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def _resume(accelerator: Accelerator, arguments: TrainingArguments) -> int:
    """Loads the checkpoint the arguments ask for and returns the number of steps it has behind it."""
    checkpoints = _checkpoints(Path(arguments.output_dir))
    path = None
    if arguments.resume_from_checkpoint == "latest":
        path = checkpoints[-1] if checkpoints else None
    elif arguments.resume_from_checkpoint is not None:
        path = Path(arguments.resume_from_checkpoint)
        if not path.is_dir():
            raise ValueError(f"There is no checkpoint {str(path)!r}: give a checkpoint-N folder or 'latest'.")
    first_step = _step(path) if path is not None else 0
    if later := [checkpoint.name for checkpoint in checkpoints if _step(checkpoint) > first_step]:
        raise ValueError(
            f"{arguments.output_dir!r} already holds {later}, which a run from step {first_step} would overwrite: "
            "continue with --resume_from_checkpoint latest, or choose another --output_dir."
        )
    if path is not None:
        accelerator.load_state(str(path))
    return first_step


def latents_std(encode: Callable[[Tensor], Tensor], dataset: Dataset[Any], count: int = 64) -> float:
    """Standard deviation of the latents of the first `count` samples; 1 / std is a VAE's scaling factor."""
    with torch.no_grad():
        latents = [encode(dataset[index]["target"][None] * 2 - 1) for index in range(count)]
    std = float(torch.cat([latent.flatten() for latent in latents]).std())
    if not math.isfinite(std) or std == 0:
        raise RuntimeError(f"The latents' standard deviation is {std}: the autoencoder did not train.")
    return std
