"""The training loop that all trainers share."""

from __future__ import annotations

import json
import logging
import math
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..pretrained.files import honour_umask
from .arguments import TrainingArguments
from .checkpoint_writer import CheckpointWriter
from .checkpointing import (
    Progress,
    checkpoint_trainable_only,
    move_over,
    notice_sigterm,
    remember_random_states,
    resume,
)
from .compilation import compile_transformers
from .disk import say_disk
from .finite_steps import FiniteSteps
from .folder_lock import locked
from .frozen_weights import FrozenWeights
from .loading import batches
from .options import adamw_options, check_trackers, recorded, take_over
from .processes import any_process, from_main_process, new_accelerator
from .progress import ProgressReport
from .script import log_without_credentials
from .validation import Enlarge
from .validation_run import Validation, read_validation


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Collect the parameters that an optimiser has to update, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def train(
    module: nn.Module,
    dataset: Dataset[Any],
    arguments: TrainingArguments,
    save: Callable[[Path], None],
    validate: Enlarge | None = None,
    publish: Callable[[Path], None] | None = None,
    last_line: str | None = None,
) -> None:
    """Optimise `module` and save it.

    Args:
        module: a single module that holds everything a step needs; `module(batch)` returns the losses by name,
            each a scalar tensor; their sum is minimised. Parameters with `requires_grad` are trained. It is a single
            module because distributed data parallelism only synchronises what runs through its own forward.
        dataset: gives the run's samples in order, as `dataset[index]` for every index from 0 on. Samples with a
            `degradation_seed` are completed by its method `complete` once they are on the device (see `PhotoCrops`).
        save: writes the finished weights to a folder (called on the main process, with averaged weights if
            `ema_decay` is set). It may fail and be tried again: the last checkpoint holds the finished state.
        validate: enlarges the images of `validation_images` (called on all processes, with averaged weights too).
        publish: called with the output folder on the main process, when everything else is done and the processes
            have separated: it may take its time, and if it raises, nothing is lost.
        last_line: what is printed at the very end, where the result is and what to do with it; by default only the
            output folder.

    Raises:
        ValueError: if another trainer is running in the output folder; it holds checkpoints that this run would
            overwrite; there is nothing to resume from or to validate with; a tracker is unknown; or frozen weights
            are to be in bf16 without autocast to it.
        ImportError: if a tracker, or bitsandbytes for 8-bit Adam, is not installed.
        RuntimeError: if the loss or the gradient is not finite in more steps than `skip_nonfinite`.
        OSError: if the finished weights cannot be written.
        SystemExit: with status 143 after SIGTERM, once a checkpoint is written from which the run continues exactly;
            with status 1 if writing it failed.
    """
    output_dir = Path(arguments.output_dir)
    check_trackers(arguments)
    validation = read_validation(arguments, validate)
    accelerator = new_accelerator(arguments)
    with ExitStack() as lock:
        from_main_process(accelerator, lambda: lock.enter_context(locked(output_dir)))
        interruption = _run(accelerator, module, dataset, arguments, save, validation)
    if interruption is not None:
        raise SystemExit(interruption)
    if publish is not None and accelerator.is_main_process:
        publish(output_dir)
    accelerator.print(last_line or f"The result is in {output_dir}.", flush=True)


def _run(
    accelerator: Accelerator,
    module: nn.Module,
    dataset: Dataset[Any],
    arguments: TrainingArguments,
    save: Callable[[Path], None],
    validation: Validation | None,
) -> int | str | None:
    """Do what `train` does in its output folder, and return the exit status that SIGTERM asks for, if it came."""
    output_dir = Path(arguments.output_dir)
    log_without_credentials()
    logging.getLogger("accelerate").setLevel(logging.WARNING)  # it reports every file of a checkpoint
    if arguments.allow_tf32:
        torch.set_float32_matmul_precision("high")
    # All processes draw the same weights; their dropout has to differ.
    set_seed(arguments.seed, device_specific=True)
    parameters = trainable_parameters(module)
    optimizer = _adamw(parameters, arguments)
    frozen = FrozenWeights(module, accelerator, arguments.frozen_weights_dtype)
    if arguments.compile:
        compile_transformers(module)
    # accelerate advances a prepared schedule once per process, so the schedule counts the steps of all processes.
    schedule = get_scheduler(
        arguments.lr_scheduler,
        optimizer,
        num_warmup_steps=arguments.lr_warmup_steps * accelerator.num_processes,
        num_training_steps=arguments.max_train_steps * accelerator.num_processes,
        num_cycles=arguments.lr_num_cycles,
        power=arguments.lr_power,
    )
    prepared, optimizer, schedule = accelerator.prepare(module, optimizer, schedule)
    average = EMAModel(parameters.values(), decay=arguments.ema_decay) if arguments.ema_decay else None
    if average is not None:
        accelerator.register_for_checkpointing(average)
    checkpoint_trainable_only(accelerator, parameters)
    if arguments.report_to:
        accelerator.init_trackers("diffusers-sr", config={k: str(v) for k, v in recorded(arguments).items()})

    start = resume(accelerator, output_dir, arguments)
    take_over(optimizer, schedule, arguments)
    if average is not None:
        average.decay = arguments.ema_decay
        average.to(accelerator.device)  # after resuming, which leaves it on the CPU
    accelerator.print(
        f"{sum(p.numel() for p in parameters.values()):,} trainable parameters in {len(parameters)} tensors, "
        f"steps {start.step} to {arguments.max_train_steps}, {accelerator.num_processes} process(es)"
    )
    if accelerator.is_main_process:
        accelerator.print(say_disk(parameters.values(), arguments), flush=True)
    per_batch = arguments.train_batch_size * accelerator.num_processes
    per_step = per_batch * arguments.gradient_accumulation_steps
    report = ProgressReport(accelerator, start.step, arguments.max_train_steps, per_batch, arguments.log_every)
    prepared.train()
    step = start.step
    checkpoints = CheckpointWriter(accelerator, output_dir, arguments, saved_step=step)
    finite = FiniteSteps(accelerator, arguments.skip_nonfinite)

    def checkpoint() -> None:
        samples = start.samples + (step - start.step) * per_step
        checkpoints.save(Progress(step, samples, accelerator.num_processes))

    restore_random_states = remember_random_states()
    interruption: int | str | None = None
    loaded = batches(dataset, arguments, accelerator, start)
    with notice_sigterm() as signals, closing(report), closing(checkpoints), closing(loaded):
        for batch in loaded:
            with accelerator.accumulate(prepared):
                losses = prepared(batch)
                loss = torch.stack(list(losses.values())).sum()
                accelerator.backward(loss)
                is_finite, is_taken = finite.add(loss), True
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(parameters.values(), arguments.max_grad_norm)
                    is_taken = finite.is_taken(step, norm)
                if is_taken:
                    optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
            if is_finite:
                report.add(losses)
            if accelerator.sync_gradients:
                step += 1
                if average is not None and is_taken:
                    average.step(parameters.values())
                restore_random_states = remember_random_states()
                report.finish_step(step, schedule.get_last_lr()[0])
                is_last = step == arguments.max_train_steps
                if step % arguments.checkpointing_steps == 0 or is_last:
                    checkpoint()
                if validation is not None and (step % arguments.validation_steps == 0 or is_last):
                    with _as_saved(prepared, parameters, average):
                        validation.run(accelerator, step, signals)
                    restore_random_states()
            if any_process(accelerator, bool(signals)) and step < arguments.max_train_steps:
                restore_random_states()  # of the last optimiser step: batches accumulated since then are seen again
                interruption = 128 + signal.SIGTERM
                checkpoints.finish()
                if step > checkpoints.saved_step:
                    checkpoint()
                    checkpoints.finish()
                if step > checkpoints.saved_step:
                    interruption = "Ended by SIGTERM; no checkpoint could be written, the previous one is kept."
                break
        else:
            checkpoints.finish()
            if average is not None:
                average.copy_to(parameters.values())
            frozen.restore()
            _save_finished(accelerator, arguments, save)
    if accelerator.num_processes > 1:
        # Distributed data parallelism has to end before the processes separate, or torch may wait forever.
        (prepared,) = accelerator.free_memory(prepared)
    accelerator.end_training()
    if interruption is not None:
        accelerator.print(f"Ended by SIGTERM after step {step}: continue with --resume_from_checkpoint latest.")
    return interruption


def _save_finished(accelerator: Accelerator, arguments: TrainingArguments, save: Callable[[Path], None]) -> None:
    output_dir = Path(arguments.output_dir)
    if accelerator.is_main_process:
        # The result has to be complete before it replaces an earlier one.
        with tempfile.TemporaryDirectory(dir=output_dir, prefix="unfinished-") as unfinished:
            save(Path(unfinished))
            Path(unfinished, "training_arguments.json").write_text(json.dumps(recorded(arguments), indent=2) + "\n")
            honour_umask(Path(unfinished))
            for path in Path(unfinished).iterdir():
                move_over(path, output_dir / path.name)


def _adamw(parameters: dict[str, nn.Parameter], arguments: TrainingArguments) -> torch.optim.Optimizer:
    kind: type[torch.optim.Optimizer] = torch.optim.AdamW
    if arguments.use_8bit_adam:
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ImportError("--use_8bit_adam needs bitsandbytes: pip install 'diffusers-sr[8bit]'.") from error
        kind = AdamW8bit
    return kind(parameters.values(), **adamw_options(arguments))


@contextmanager
def _as_saved(prepared: nn.Module, parameters: dict[str, nn.Parameter], average: EMAModel | None) -> Iterator[None]:
    """Inside the `with` block, evaluate with the averaged weights, which are the ones that are saved in the end."""
    if average is not None:
        average.store(parameters.values())
        average.copy_to(parameters.values())
    prepared.eval()
    yield
    prepared.train()
    if average is not None:
        average.restore(parameters.values())


def latents_std(encode: Callable[[Tensor], Tensor], dataset: Dataset[Any], count: int = 64) -> float:
    """Measure the standard deviation of the latents of the first `count` samples.

    Its inverse is a VAE's scaling factor.

    Raises:
        RuntimeError: if it is 0 or not finite.
    """
    with torch.no_grad():
        latents = [encode(dataset[index]["target"][None] * 2 - 1) for index in range(count)]
    std = float(torch.cat([latent.flatten() for latent in latents]).std())
    if not math.isfinite(std) or std == 0:
        raise RuntimeError(f"The latents' standard deviation is {std}: the autoencoder did not train.")
    return std
