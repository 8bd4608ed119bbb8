"""Reports of work in progress: a progress bar, log lines, what is left, and numbers for the trackers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

_ESTIMATE_AFTER = 10  # steps, of which the first is not measured
_PAUSE = 10.0  # seconds

Item = TypeVar("Item")


class ProgressReport:
    """A report of the mean losses, and of the speed, since the last log line; the first step has a line of its own.

    After ten steps it says how long the rest will take.

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
        self.first_step, self.last_step = first_step, last_step
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
        done = step - self.first_step
        if done == 1:
            self._after_first = time.perf_counter()
        elif done == min(_ESTIMATE_AFTER, self.last_step - self.first_step - 1):
            self._estimate(step, (time.perf_counter() - self._after_first) / (done - 1))
        if step % self.log_every and done != 1:
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

    def _estimate(self, step: int, seconds: float) -> None:
        left = duration(seconds * (self.last_step - step))
        with self.bar.external_write_mode():
            self.accelerator.print(
                f"estimate from {step - self.first_step - 1} steps at {seconds:.2f} s: {left} to step "
                f"{self.last_step}, without validation and checkpoints that are still to come",
                flush=True,
            )

    def close(self) -> None:
        """Close the progress bar."""
        self.bar.close()

    def _restart(self) -> None:
        self._sums: dict[str, float] = {}
        self._batches = self._steps = 0
        self._start = time.perf_counter()


def duration(seconds: float) -> str:
    """Say a time in the unit that suits it."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def with_progress(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Give items one after the other, and print every ten seconds how many are done and how long the rest takes.

    Args:
        items: the items; the next is asked for when the last is done.
        total: how many there are.
        what: the noun for them, in the plural.
    """
    start = printed = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - printed >= _PAUSE:
            left = duration((now - start) / number * (total - number))
            print(f"{number} of {total} {what}, {left} left", flush=True)
            printed = now
