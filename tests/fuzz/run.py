"""Read damaged and hostile files with the readers, write results of them, and note what ought not to happen."""

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

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffusers_sr.data.photos import read_image
from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.image.formats import FORMATS
from diffusers_sr.image.pixels import read_images
from diffusers_sr.image.reader import read_photo
from diffusers_sr.image.writer import check_output, unkept, write_photo

from .folders import damaged
from .hostile import hostile

SECONDS = 20
"""Of the processor's time, so that a busy machine finds no more than another."""
MEMORY = 2e9
MOST_CALLED, MOST_WRITTEN = 16_000_000, 4_000_000
"""Pixels that are made floats, and that are written: the rest of a bomb has been read by then."""
RECORD = '{"model": "of the run"}'


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
        if image.width * image.height > MOST_CALLED:
            raise ValueError("takes more memory as floats than is measured here")
        read_images(image)


def for_results(path: Path) -> None:
    """Read a photo, and write a result of it with all that came with it, in one format or another."""
    photo = read_photo(path)
    if photo.image.width * photo.image.height > MOST_WRITTEN:
        return
    format = FORMATS[path.stat().st_size % len(FORMATS)]
    folder = path.parent / "results"
    folder.mkdir(exist_ok=True)
    result = folder / f"result.{format}"
    size = photo.image.size
    pixels: Image.Image | NDArray[np.uint16] = photo.image
    if photo.deep is not None:
        pixels = np.ascontiguousarray(np.broadcast_to(np.atleast_3d(photo.deep.colours), (*size[::-1], 3)))
    check_output(photo, result, *size)
    unkept(photo, result, *size, RECORD)
    try:
        write_photo(result, pixels, photo, record=RECORD)
        again = read_photo(result)
    except ImageFileError as error:
        raise AssertionError(f"the result cannot be written, or read: {error}") from error
    if again.image.size != size or [note for note in again.notes if "damaged" in note]:
        raise AssertionError(f"the result has {again.image.size} pixels, not {size}, and {again.notes}")
    result.unlink()
    if left := list(folder.iterdir()):
        raise AssertionError(f"{left} is left")


READERS: tuple[Callable[[Path], None], ...] = (for_users, for_training, for_pipeline, for_results)


def run(files: int, seed: int, first: int = 0) -> Report:
    """Make and read files number `first` to `first + files - 1`; a number and a seed always give the same file.

    Two of three are damaged, the third is hostile.
    """
    report = Report()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(first, first + files):
            kind, suffix, content = (hostile if number % 3 == 2 else damaged)(number, seed)
            path = Path(folder) / f"photo{suffix}"
            path.write_bytes(content)
            for reader in READERS:
                _read(reader, path, f"file {number} ({kind}), {reader.__name__}", report)
            path.unlink()
            report.files += 1
    return report


def _read(reader: Callable[[Path], None], path: Path, name: str, report: Report) -> None:
    start = time.process_time()
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
    report.slowest = max(report.slowest, (time.process_time() - start, name))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if memory > report.peak[0]:
        report.peak = (memory, name)


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    # A decoder that never returns to Python cannot be stopped by a signal: say where it is, and end.
    faulthandler.dump_traceback_later(30 * SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
