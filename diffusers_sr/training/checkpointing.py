"""Checkpoints that are complete or absent, and runs that continue from them exactly."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import re
import shutil
import signal
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import SCALER_NAME
from safetensors.torch import load_file, save_file
from torch import nn

from .arguments import TrainingArguments
from .options import differences, recorded
from .processes import from_main_process

logger = logging.getLogger(__name__)

TRAINABLE_FILE = "trainable.safetensors"
MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Progress:
    """How far a run has come: optimiser steps, samples of all processes, and the number of processes."""

    step: int
    samples: int
    num_processes: int


def checkpoint_trainable_only(accelerator: Accelerator, parameters: dict[str, nn.Parameter]) -> None:
    """Make checkpoints hold only what is trained: frozen weights are the base model's and need no second copy."""

    def save(models: list[nn.Module], weights: list[Any], output_dir: str) -> None:
        if accelerator.is_main_process:
            tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}
            save_file(tensors, Path(output_dir) / TRAINABLE_FILE)
        weights.clear()

    def load(models: list[nn.Module], input_dir: str) -> None:
        tensors = load_file(Path(input_dir) / TRAINABLE_FILE)
        # The shapes as well: `copy_` would broadcast a smaller tensor.
        found, expected = ({name: each.shape for name, each in group.items()} for group in (tensors, parameters))
        if found != expected:
            raise ValueError(f"The checkpoint {input_dir} holds other parameters than this run trains.")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name])
        models.clear()

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def resume(accelerator: Accelerator, output_dir: Path, arguments: TrainingArguments) -> Progress:
    """Load the checkpoint that `resume_from_checkpoint` asks for, and log which options differ from those it has.

    That is a checkpoint folder; "latest" for the newest complete one in `output_dir`, or a new run if there is no
    checkpoint at all; None for a new run. Newer ones that are damaged are renamed, with a warning.

    Raises:
        ValueError: if there is no such checkpoint, it is damaged, belongs to another model, or does not fit the
            options; or if the output folder holds later ones that the run would overwrite.
    """
    path = from_main_process(accelerator, lambda: _find(output_dir, arguments.resume_from_checkpoint))
    if path is None:
        return Progress(0, 0, accelerator.num_processes)
    progress = _progress(path)
    before = json.loads((path / MANIFEST).read_text()).get("arguments", {})
    _check_options(path, progress, before, arguments)
    if accelerator.scaler is not None and not (path / SCALER_NAME).is_file():
        raise ValueError(
            f"The checkpoint {str(path)!r} was written without --mixed_precision fp16, whose scale of gradients it "
            "lacks: give bf16 or no, or start a new run in another --output_dir."
        )
    if (changed := differences(before, recorded(arguments))) and accelerator.is_main_process:
        logger.warning("The run continues from %s with other options: %s.", path.name, changed)
    if progress.num_processes != accelerator.num_processes:
        logger.warning(
            "%s was written by %d process(es), this run has %d: it continues with the next sample, but not bit for "
            "bit as the earlier run would have.",
            path,
            progress.num_processes,
            accelerator.num_processes,
        )
    accelerator.step = -1  # accelerate only logs it if it cannot read the random states, which hold the step
    try:
        with _only_weights():
            accelerator.load_state(str(path))
        if accelerator.step < 0 and (path / f"random_states_{accelerator.process_index}.pkl").exists():
            raise pickle.UnpicklingError("the random states could not be read")
    except pickle.UnpicklingError as error:
        message = f"The checkpoint {str(path)!r} holds more than weights and states, or is of another kind: {error}"
        raise ValueError(message) from error
    accelerator.step = 0  # counts batches of an unfinished optimiser step; a checkpoint has no such batches
    return progress


def _check_options(path: Path, progress: Progress, before: Mapping[str, Any], arguments: TrainingArguments) -> None:
    """Raise ValueError if a run with these options cannot continue from a checkpoint."""
    if progress.step > arguments.max_train_steps:
        raise ValueError(
            f"The checkpoint {str(path)!r} is that of step {progress.step}, and --max_train_steps is only "
            f"{arguments.max_train_steps}: raise it, or give an earlier checkpoint."
        )
    has_average = any(path.glob("custom_checkpoint_*.pkl"))
    if has_average != bool(arguments.ema_decay):
        problem = "an average of the weights" if has_average else "no average of the weights"
        raise ValueError(
            f"The checkpoint {str(path)!r} holds {problem}, and --ema_decay is {arguments.ema_decay}: give "
            f"{'a decay above 0' if has_average else '--ema_decay 0'}, or start a new run in another --output_dir."
        )
    if before.get("use_8bit_adam", arguments.use_8bit_adam) != arguments.use_8bit_adam:
        raise ValueError(
            f"The checkpoint {str(path)!r} was written with --use_8bit_adam {before['use_8bit_adam']}, whose state "
            "the other AdamW cannot continue: leave it as it was, or start a new run in another --output_dir."
        )


@contextmanager
def _only_weights() -> Iterator[None]:
    """Let no pickle run code: accelerate asks for weights only, except where it loads an average of the weights."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def move_over(source: Path, target: Path) -> None:
    """Rename a file or folder to `target`, on the same disk, replacing what is there."""
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)


def list_checkpoints(output_dir: Path) -> list[Path]:
    """List the folders named checkpoint-<step>, in order of their steps; not `checkpoint-7-backup` and such."""
    named = (path for path in output_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir())
    return sorted(named, key=_step)


def damage(checkpoint: Path) -> str | None:
    """Say in words what is wrong with a checkpoint, or return None if it is complete."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())["files"]
        for name, expected in files.items():
            if (found := fingerprint(checkpoint / name)) != expected:
                return f"{name} is {found}, but was {expected} when it was written"
    except OSError as error:
        return str(error)
    except ValueError as error:
        return f"{MANIFEST} is not valid JSON: {error}"
    except (AttributeError, KeyError, TypeError):
        return f"{MANIFEST} does not say which files there are"
    return None


def remember_random_states() -> Callable[[], None]:
    """Record the states of Python's, NumPy's and torch's global generators; return a function that restores them."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(cuda)

    return restore


@contextmanager
def notice_sigterm() -> Iterator[list[int]]:
    """Inside the `with` block, which has to run in the main thread, let SIGTERM only add its number to the list."""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)


def fingerprint(path: Path) -> str:
    """Give the size and the CRC-32 of a file, read piece by piece."""
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 24):
            checksum = zlib.crc32(piece, checksum)
        return f"{file.tell()} bytes with CRC-32 {checksum:08x}"


def _find(output_dir: Path, resume_from: str | None) -> Path | None:
    """Find the checkpoint that `resume` has to load; it is complete."""
    path = None
    if resume_from == "latest":
        path = _newest_whole(output_dir)
    elif resume_from is not None:
        path = Path(resume_from)
        if not path.is_dir():
            raise ValueError(f"There is no checkpoint {resume_from!r}: give a checkpoint-N folder or 'latest'.")
        if problem := _problem(path):
            raise ValueError(f"The checkpoint {resume_from!r} is damaged ({problem}): give another, or 'latest'.")
    first_step = _progress(path).step if path is not None else 0
    if later := [other.name for other in list_checkpoints(output_dir) if _step(other) > first_step]:
        raise ValueError(
            f"{str(output_dir)!r} already holds {later}, which a run from step {first_step} would overwrite: "
            "continue with --resume_from_checkpoint latest, or choose another --output_dir."
        )
    return path


def _problem(checkpoint: Path) -> str | None:
    """Say in words why a run cannot continue from a checkpoint, or return None if it can."""
    if (problem := damage(checkpoint)) is None:
        try:
            _progress(checkpoint)
        except (KeyError, TypeError):
            problem = f"{MANIFEST} does not say how far the run was"
    return problem


def _newest_whole(output_dir: Path) -> Path | None:
    damaged: list[Path] = []
    for path in reversed(list_checkpoints(output_dir)):
        problem = _problem(path)
        if problem is None and (step := _progress(path).step) != _step(path):
            problem = f"{MANIFEST} is that of step {step}"
        if problem is None:
            break
        logger.warning("%s is damaged and left out: %s", path, problem)
        damaged.append(path)
    else:
        if damaged:
            raise ValueError(
                f"All checkpoints in {str(output_dir)!r} are damaged: remove them to start again, or choose another "
                "--output_dir."
            )
        return None
    for other in damaged:
        names = chain([f"damaged-{other.name}"], (f"damaged-{other.name}-{number}" for number in count(2)))
        other.rename(next(free for name in names if not (free := other.with_name(name)).exists()))
    return path


def own_checkpoints(output_dir: Path) -> list[Path]:
    """List the checkpoints that a trainer wrote itself: those with the manifest of their step, and no links."""
    own = []
    for path in list_checkpoints(output_dir):
        with suppress(OSError, ValueError, TypeError, KeyError):
            if not path.is_symlink() and _progress(path).step == _step(path):
                own.append(path)
    return own


def _progress(checkpoint: Path) -> Progress:
    return Progress(**json.loads((checkpoint / MANIFEST).read_text())["progress"])


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])
