"""What has been done so far in a command, and what has failed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..image.names import printable
from .terminal import on_one_line, report


@dataclass
class Tally:
    """The results of a command's work."""

    seconds: list[float] = field(default_factory=list)
    """How long each image that is done took."""
    existing: int = 0
    """Images whose results were there, or are being made by another command."""
    large: int = 0
    """Images that were left alone because they are larger than what was asked for."""
    peak: int = 0
    """The most bytes that a process used: of its device, or of main memory on a CPU."""
    failures: list[tuple[Path, str]] = field(default_factory=list)
    """Files and folders that failed, and why."""

    def fail(self, path: Path, reason: str) -> None:
        """Report a failure, and remember it."""
        report(path, reason)
        self.failures.append((path, reason))

    def summarise(self, names_failures: bool) -> None:
        """Print the summary.

        Args:
            names_failures: whether to name what failed; a single file needs no more than the report.
        """
        if self.existing:
            print(f"Skipped, because they exist: {self.existing}")
        if self.large:
            print(f"Left alone, because they are larger than what was asked for: {self.large}")
        if self.seconds:
            seconds = sum(self.seconds) / len(self.seconds)
            memory = f", peak memory {self.peak / 1e9:.2f} GB" if self.peak else ""
            print(f"Images done: {len(self.seconds)}, {seconds:.1f} seconds an image{memory}")
        if self.failures and names_failures:
            print(f"Images and folders that failed: {len(self.failures)}")
            for path, reason in self.failures:
                print(f"  {printable(path)}: {on_one_line(reason)}")
        sys.stdout.flush()


def summed(tallies: Iterable[Tally]) -> Tally:
    """Add up what several processes have done."""
    total = Tally()
    for tally in tallies:
        total.seconds += tally.seconds
        total.existing += tally.existing
        total.large += tally.large
        total.peak = max(total.peak, tally.peak)
        total.failures += tally.failures
    return total
