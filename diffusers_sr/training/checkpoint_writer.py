"""The checkpoints that a run writes: whole or absent, and mostly while the training goes on."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError

from ..pretrained.files import honour_umask
from .arguments import TrainingArguments
from .checkpointing import MANIFEST, Progress, fingerprint, own_checkpoints
from .options import recorded

logger = logging.getLogger(__name__)

_UNFINISHED = "unfinished-checkpoint"

# A full disk is an OSError to Python, but a RuntimeError to torch's writer and a SafetensorError to safetensors'.
_SAVE_ERRORS = (OSError, RuntimeError, SafetensorError)


class CheckpointWriter:
    """Writes `checkpoint-<step>` with everything a run needs to continue exactly, or nothing.

    The training waits until the files are written, which the operating system takes into memory as far as there is
    room. A thread computes checksums and waits for the disk: a checkpoint gets its name once all of it is there. All
    processes have to call the same methods, and have to share the disk.

    Args:
        accelerator: its state is written.
        output_dir: folder of the checkpoints.
        arguments: the run's options, which the manifest records without credentials. Of its checkpoints, the
            `checkpoints_total_limit` newest are kept and older ones removed; only folders whose manifest says that
            they are checkpoints of their step are counted and removed.
        saved_step: step of the checkpoint that the run continues from, or 0.

    Attributes:
        saved_step: step of the newest checkpoint that is complete, as far as `finish` knows.
    """

    def __init__(
        self, accelerator: Accelerator, output_dir: Path, arguments: TrainingArguments, saved_step: int
    ) -> None:
        self.accelerator = accelerator
        self.output_dir = output_dir
        self.arguments = arguments
        self.saved_step = saved_step
        self._thread = ThreadPoolExecutor(1)
        self._begun: tuple[int, Future[None] | None] | None = None

    def save(self, progress: Progress) -> None:
        """Write the files of a checkpoint, and begin to complete it.

        If they cannot be written, for example because the disk is full, an error is logged and earlier checkpoints
        are kept.
        """
        self.finish()
        unfinished = self.output_dir / _UNFINISHED
        if self.accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        # Every process writes its own random state into the folder.
        if errors := _errors_of_all(partial(self.accelerator.save_state, str(unfinished))):
            self._give_up(progress.step, errors)
        elif self.accelerator.is_main_process:
            honour_umask(unfinished)  # here, as it sets the umask of the whole process for a moment
            completed = self._thread.submit(_complete, unfinished, progress, self.arguments)
            self._begun = (progress.step, completed)
        else:
            self._begun = (progress.step, None)

    def finish(self) -> None:
        """Wait for the checkpoint that was begun, if there is one; log an error if it could not be completed."""
        if self._begun is None:
            return
        step, completed = self._begun
        self._begun = None
        if errors := _errors_of_all(completed.result if completed is not None else None):
            self._give_up(step, errors)
        else:
            self.saved_step = step

    def close(self) -> None:
        """Wait for this process's own part, also after an error, when the processes can no longer meet."""
        self._thread.shutdown()

    def _give_up(self, step: int, errors: list[str]) -> None:
        if self.accelerator.is_main_process:
            shutil.rmtree(self.output_dir / _UNFINISHED, ignore_errors=True)
            logger.error("checkpoint-%d could not be written, earlier ones are kept: %s", step, errors[0])
        self.accelerator.wait_for_everyone()


def _errors_of_all(write: Callable[[], object] | None) -> list[str]:
    """Call `write` and return the errors of all processes, each of which has to call this."""
    error = None
    try:
        if write is not None:
            write()
    except _SAVE_ERRORS as caught:
        error = " ".join(str(caught).split())
    return [each for each in gather_object([error]) if each is not None]


def _complete(unfinished: Path, progress: Progress, arguments: TrainingArguments) -> None:
    files = sorted(path for path in unfinished.rglob("*") if path.is_file())
    manifest = {
        "progress": asdict(progress),
        "arguments": recorded(arguments),
        "files": {path.relative_to(unfinished).as_posix(): fingerprint(path) for path in files},
    }
    (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    # The name must not reach the disk before the contents do.
    for path in (*unfinished.rglob("*"), unfinished):
        _flush(path)
    output_dir = unfinished.parent
    unfinished.rename(output_dir / f"checkpoint-{progress.step}")
    _flush(output_dir)
    for old in own_checkpoints(output_dir)[: -arguments.checkpoints_total_limit]:
        try:
            shutil.rmtree(old)
        except OSError as error:
            logger.warning("%s is no longer needed, but cannot be removed: %s", old, error)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot flush a folder
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
