"""Read damaged files with the three readers, and note what ought not to happen."""

from __future__ import annotations

import faulthandler
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from diffusers_sr.data.photos import read_image
from diffusers_sr.image.pixels import read_images
from diffusers_sr.image.reader import read_photo

from .folders import damaged

SECONDS = 20
MEMORY = 2e9


class Hang(BaseException):
    """A file took too long; no handler of errors may catch it."""


@dataclass
class Report:
    """The outcome of a run."""

    files: int = 0
    read: Counter[str] = field(default_factory=Counter)
    """Files that were read all the same, by reader."""
    tracebacks: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    peak: tuple[float, str] = (0.0, "")
    """Most memory of the process, in bytes, and the file after which it had grown to that."""

    @property
    def failed(self) -> bool:
        return bool(self.tracebacks or self.hangs) or self.peak[0] > MEMORY


def for_users(path: Path) -> None:
    read_photo(path)


def for_training(path: Path) -> None:
    read_image(path)


def for_pipeline(path: Path) -> None:
    try:
        image = Image.open(path)
    except Exception as error:  # the caller's own call of Pillow
        raise ValueError("cannot be opened") from error
    with image:
        read_images(image)


READERS: tuple[Callable[[Path], None], ...] = (for_users, for_training, for_pipeline)


def run(files: int, seed: int, first: int = 0) -> Report:
    """Damage and read files number `first` to `first + files - 1`; a number and a seed always give the same file."""
    report = Report()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(first, first + files):
            kind, suffix, content = damaged(number, seed)
            path = Path(folder) / f"photo{suffix}"
            path.write_bytes(content)
            for reader in READERS:
                _read(reader, path, f"file {number} ({kind}), {reader.__name__}", report)
            path.unlink()
            report.files += 1
    return report


def _read(reader: Callable[[Path], None], path: Path, name: str, report: Report) -> None:
    start = time.perf_counter()
    try:
        with _time_limit():
            reader(path)
        report.read[reader.__name__] += 1
    except ValueError:
        pass
    except Hang:
        report.hangs.append(name)
    except Exception:
        report.tracebacks.append(f"{name}:\n{traceback.format_exc()}")
    report.slowest = max(report.slowest, (time.perf_counter() - start, name))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if memory > report.peak[0]:
        report.peak = (memory, name)


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    # A decoder that never returns to Python cannot be stopped by a signal: say where it is, and end.
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
