"""The engine the trainers share: arguments, optimisation loop, checkpoints that resume exactly."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import ProjectConfiguration
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import CLIPTextModel, CLIPTokenizer, HfArgumentParser

from .data.dataset import PhotoCrops, list_images

logger = logging.getLogger(__name__)

TRAINABLE_FILE = "trainable.safetensors"


def option(default: Any, help: str) -> Any:
    """A dataclass field whose `help` is also the command line's."""
    return field(default=default, metadata={"help": help})


@dataclass
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
    mixed_precision: str = option("no", "Autocast type: no, fp16 or bf16.")
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    dataloader_num_workers: int = option(0, "Worker processes that read and degrade; does not change the samples.")
    checkpointing_steps: int = option(500, "A checkpoint to resume from is written every so many steps.")
    checkpoints_total_limit: int = option(2, "Older checkpoints beyond this number are removed.")
    resume_from_checkpoint: str | None = option(None, 'A checkpoint folder, or "latest".')
    exclude_data: str | None = option(None, "File that lists photos, one name a line, to leave out of training.")
    log_every: int = option(50, "Steps between two log lines.")
    report_to: str | None = option(None, "Tracker of accelerate, such as tensorboard.")


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
        ValueError: if a listed photo is not in the folder, so that a typing error does not leak test photos.
    """
    paths = list_images(arguments.train_data_dir)
    if arguments.exclude_data is not None:
        names = set(Path(arguments.exclude_data).read_text().split())
        if missing := sorted(names - {path.name for path in paths}):
            raise ValueError(f"{arguments.exclude_data} lists photos that are not in the folder: {missing}.")
        paths = [path for path in paths if path.name not in names]
    return PhotoCrops(paths, arguments.resolution, num_samples(arguments), arguments.seed, **options)


def num_samples(arguments: TrainingArguments) -> int:
    """Length of the run's sample stream, over all processes."""
    return arguments.max_train_steps * _samples_per_step(arguments, PartialState().num_processes)


def _samples_per_step(arguments: TrainingArguments, num_processes: int) -> int:
    return arguments.gradient_accumulation_steps * arguments.train_batch_size * num_processes


def draw_noise(
    seeds: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device, stream: int = 0
) -> Tensor:
    """Standard normal noise [B, *shape], each sample from its own seed; `stream` tells several draws apart."""
    noise = [torch.randn(*shape, generator=torch.Generator().manual_seed(int(seed) + stream)) for seed in seeds]
    return torch.stack(noise).to(device=device, dtype=dtype)


def draw_timesteps(seeds: Tensor, num_train_timesteps: int, device: torch.device) -> Tensor:
    """Uniform timesteps [B] in 0 .. num_train_timesteps - 1, each sample from its own seed."""
    # The low bits of the seed are as random as any; noise uses the seed as a whole.
    return (seeds % num_train_timesteps).to(device)


def draw_uniform(seeds: Tensor, stream: int) -> Tensor:
    """One uniform number in [0, 1) a sample, [B], from its own seed; `stream` tells several draws apart."""
    draws = [torch.rand((), generator=torch.Generator().manual_seed(int(seed) + stream)) for seed in seeds]
    return torch.stack(draws)


def enlarge(image: Tensor, size: Sequence[int]) -> Tensor:
    """A low-resolution image [B, 3, h, w] enlarged bicubically to `size` (height, width), within [0, 1]."""
    return nn.functional.interpolate(image, size=tuple(size), mode="bicubic").clamp(0, 1)


def encode_text(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, texts: Sequence[str]) -> Tensor:
    """Last hidden states [B, tokens, width] of `texts`, padded and truncated to the tokenizer's length."""
    tokens = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    return text_encoder(tokens.input_ids.to(text_encoder.device)).last_hidden_state


def denoising_loss(
    scheduler: DDPMScheduler, prediction: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Mean squared error of the network's output against what the scheduler says it predicts.

    Raises:
        ValueError: for a prediction type other than epsilon and v_prediction.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        target = noise
    elif kind == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    else:
        raise ValueError(f"prediction_type is {kind!r}; training knows 'epsilon' and 'v_prediction'.")
    return nn.functional.mse_loss(prediction.float(), target.float())


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
        dataset: samples in the order of the run, `num_samples(arguments)` of them.
        save: writes the finished weights to a folder (called on the main process, with averaged weights if
            `ema_decay` is set).
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
        average.to(accelerator.device)
        accelerator.register_for_checkpointing(average)
    _checkpoint_trainable_only(accelerator, parameters)
    if arguments.report_to:
        accelerator.init_trackers("diffusers-sr", config={k: str(v) for k, v in vars(arguments).items()})

    first_step = _resume(accelerator, arguments)
    accelerator.print(
        f"{sum(p.numel() for p in parameters.values()):,} trainable parameters in {len(parameters)} tensors, "
        f"steps {first_step} to {arguments.max_train_steps}, {accelerator.num_processes} process(es)"
    )
    prepared.train()
    step, clock, running = first_step, time.perf_counter(), dict[str, float]()
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
        for name, value in losses.items():
            running[name] = running.get(name, 0.0) + float(value.detach())
        if not accelerator.sync_gradients:
            continue
        step += 1
        if average is not None:
            average.step(parameters.values())
        if step % arguments.log_every == 0:
            count = arguments.log_every * arguments.gradient_accumulation_steps
            values = {name: value / count for name, value in running.items()}
            seconds = (time.perf_counter() - clock) / arguments.log_every
            accelerator.log(values, step=step)
            accelerator.print(
                f"step {step} "
                + " ".join(f"{name} {value:.5f}" for name, value in values.items())
                + f" lr {schedule.get_last_lr()[0]:.2e} {seconds:.2f} s/step",
                flush=True,
            )
            running.clear()
            clock = time.perf_counter()
        if step % arguments.checkpointing_steps == 0 and step < arguments.max_train_steps:
            _save_checkpoint(accelerator, arguments, step)

    accelerator.wait_for_everyone()
    if average is not None:
        average.copy_to(parameters.values())
    if accelerator.is_main_process:
        save(output_dir)
        (output_dir / "training_arguments.json").write_text(json.dumps(vars(arguments), indent=2) + "\n")
    accelerator.end_training()


def _batches(
    dataset: Dataset[Any], arguments: TrainingArguments, accelerator: Accelerator, first_step: int
) -> Iterator[dict[str, Any]]:
    """Batches from optimiser step `first_step` on: the stream of samples is cut, never re-drawn."""
    per_step = _samples_per_step(arguments, accelerator.num_processes)
    rest = Subset(dataset, range(first_step * per_step, arguments.max_train_steps * per_step))
    loader = DataLoader(
        rest,
        batch_size=arguments.train_batch_size,
        num_workers=arguments.dataloader_num_workers,
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
    return sorted(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def _save_checkpoint(accelerator: Accelerator, arguments: TrainingArguments, step: int) -> None:
    output_dir = Path(arguments.output_dir)
    # Under a temporary name first: an interrupted save must not look like the latest checkpoint.
    unfinished = output_dir / "unfinished-checkpoint"
    accelerator.save_state(str(unfinished))
    if accelerator.is_main_process:
        unfinished.rename(output_dir / f"checkpoint-{step}")
        for old in _checkpoints(output_dir)[: -arguments.checkpoints_total_limit]:
            shutil.rmtree(old)


def _resume(accelerator: Accelerator, arguments: TrainingArguments) -> int:
    """Loads the checkpoint the arguments ask for and returns the number of steps it has behind it."""
    if arguments.resume_from_checkpoint is None:
        return 0
    if arguments.resume_from_checkpoint == "latest":
        checkpoints = _checkpoints(Path(arguments.output_dir))
        if not checkpoints:
            return 0
        path = checkpoints[-1]
    else:
        path = Path(arguments.resume_from_checkpoint)
        if not path.is_dir():
            raise ValueError(f"There is no checkpoint {str(path)!r}: give a checkpoint-N folder or 'latest'.")
    accelerator.load_state(str(path))
    return int(path.name.split("-")[1])


def latents_std(encode: Callable[[Tensor], Tensor], dataset: Dataset[Any], count: int = 64) -> float:
    """Standard deviation of the latents of the first `count` samples; 1 / std is a VAE's scaling factor."""
    with torch.no_grad():
        latents = [encode(dataset[index]["target"][None] * 2 - 1) for index in range(count)]
    std = float(torch.cat([latent.flatten() for latent in latents]).std())
    if not math.isfinite(std) or std == 0:
        raise RuntimeError(f"The latents' standard deviation is {std}: the autoencoder did not train.")
    return std
