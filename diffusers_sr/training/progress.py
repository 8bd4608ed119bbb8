"""Reports of a run in progress: a progress bar, log lines, and numbers for the trackers."""

from __future__ import annotations

import time

from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm


class ProgressReport:
    """A report of the mean losses, and of the speed, since the last log line.

    Args:
        accelerator: only its main process shows anything.
        first_step, last_step: number of optimiser steps done before the run and at its end.
        images_per_batch: number of images in the batches of all processes together.
        log_every: optimiser steps from one log line to the next.
    """

    def __init__(
        self, accelerator: Accelerator, first_step: int, last_step: int, images_per_batch: int, log_every: int
    ) -> None:
        self.accelerator = accelerator
        self.images_per_batch = images_per_batch
        self.log_every = log_every
        # Only a terminal gets a bar (disable=None); a log file gets the lines.
        hidden = None if accelerator.is_main_process else True
        self.bar = tqdm(initial=first_step, total=last_step, unit="step", disable=hidden)
        self._restart()

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add the losses of a batch."""
        self._batches += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())

    def finish_step(self, step: int, learning_rate: float) -> None:
        """Report that an optimiser step is done: `step` counts those done so far."""
        means = {name: total / self._batches for name, total in self._sums.items()}
        seconds = time.perf_counter() - self._start
        speed = self._batches * self.images_per_batch / seconds
        self.bar.update()
        self.bar.set_postfix_str(f"loss {sum(means.values()):.4f}, {speed:.1f} images/s")
        self._steps += 1
        if step % self.log_every:
            return
        self.accelerator.log({**means, "learning_rate": learning_rate, "images_per_second": speed}, step=step)
        with self.bar.external_write_mode():
            self.accelerator.print(
                f"step {step} "
                + " ".join(f"{name} {value:.5f}" for name, value in means.items())
                + f" lr {learning_rate:.2e} {seconds / self._steps:.2f} s/step {speed:.1f} images/s",
                flush=True,
            )
        self._restart()

    def close(self) -> None:
        """Close the progress bar."""
        self.bar.close()

    def _restart(self) -> None:
        self._sums: dict[str, float] = {}
        self._batches = self._steps = 0
        self._start = time.perf_counter()
