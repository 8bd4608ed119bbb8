"""Batches of a run, and the worker processes that load them."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from threading import Timer
from types import FrameType
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ..data.dataset import PhotoCrops
from .arguments import TrainingArguments
from .checkpointing import Progress

_PATIENCE = 2.0  # seconds


def batches(
    dataset: Dataset[Any], arguments: TrainingArguments, accelerator: Accelerator, start: Progress
) -> Generator[dict[str, Any]]:
    """Load the batches that are left: the stream of samples continues where the run stopped and is never redrawn.

    Close the generator, also after an error: otherwise the error's traceback keeps the loader workers alive.
    """
    per_step = arguments.gradient_accumulation_steps * arguments.train_batch_size * accelerator.num_processes
    left = (arguments.max_train_steps - start.step) * per_step
    may_end = torch.zeros(1, dtype=torch.bool).share_memory_()
    loader = DataLoader(
        Subset(dataset, range(start.samples, start.samples + left)),
        batch_size=arguments.train_batch_size,
        num_workers=arguments.dataloader_num_workers,
        worker_init_fn=partial(_outlive_sigterm, may_end),
        # A loader draws a seed for its workers: not from the global generator, as a resumed run draws it once more.
        generator=torch.Generator(),
        pin_memory=accelerator.device.type == "cuda",
    )
    others = set(active_children())
    loaded = iter(accelerator.prepare(loader))
    try:
        for batch in loaded:
            # Some samples are degraded only now, on the device of the batch.
            yield cast(PhotoCrops, dataset).complete(batch) if "degradation_seed" in batch else batch
    except BaseException as error:
        # An error of a worker would keep the loader's iterator.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        may_end.fill_(True)
        with _ended(set(active_children()) - others):
            del loaded  # nothing refers to the loader's iterator any longer: it asks the workers to end


def _outlive_sigterm(may_end: Tensor, worker: int) -> None:
    """Make a worker end by SIGTERM only when it may.

    A job scheduler sends SIGTERM to all processes, and a run needs its workers to save a checkpoint. But Python, too,
    ends workers by SIGTERM when it exits, and waits for them.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if may_end:
            os._exit(0)  # with another status torch would report the worker as crashed

    signal.signal(signal.SIGTERM, handle)


@contextmanager
def _ended(workers: set[BaseProcess]) -> Iterator[None]:
    """See to it that workers that are asked to end inside the `with` block have ended after it.

    The loader waits for one worker after the other. Each may be busy with a long photo, or in a read from a disk that
    does not answer.
    """

    def terminate() -> None:
        for worker in workers:
            worker.terminate()

    impatience = Timer(_PATIENCE, terminate)
    impatience.start()
    try:
        yield
    finally:
        impatience.cancel()
        for worker in workers:
            with suppress(RuntimeError):  # torch reports a killed worker as an error
                worker.kill()
                worker.join(_PATIENCE)
