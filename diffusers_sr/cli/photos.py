"""The photos of a command, one after another, and those of one size together."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..image.decoding import ImageFileError
from ..image.pixels import output_size
from ..image.reader import Photo, read_photo, without_metadata
from ..image.writer import check_output, prepare_folder
from .claims import Claim, claim_missing
from .progress import Bar
from .sizes import factor_for
from .tally import Tally
from .terminal import report


@dataclass
class Work:
    """A photo to enlarge."""

    source: Path
    target: Path
    photo: Photo
    upscale: float
    size: tuple[int, int]
    """Width and height of the result."""
    claim: Claim | None = None
    """What keeps other commands from making the result."""


def read_photos(
    options: argparse.Namespace, outputs: Sequence[tuple[Path, Path]], tally: Tally, bar: Bar
) -> Iterator[Work]:
    """Read the photos, and make the folders of their results; what fails, or is left alone, is said and counted."""
    prepared: set[Path] = set()
    for source, target in outputs:
        try:
            photo = read_photo(source)
            if options.strip_metadata:
                photo = without_metadata(photo)
            factor = factor_for(options, photo.image.size)
            if factor is None:
                tally.large += 1
                report(source, f"has {photo.image.width}x{photo.image.height} pixels already: it is left alone")
                bar.update()
                continue
            height, width = output_size(photo.image.height, photo.image.width, factor)
            check_output(photo, target, width, height)
            if target.parent not in prepared:
                prepare_folder(target.parent)
                prepared.add(target.parent)
        except (ImageFileError, ValueError, OSError) as error:
            tally.fail(source, str(error))
            bar.update()
        else:
            own = None
            if options.skip_existing and (own := claim_missing(options, target)) is None:
                tally.existing += 1
                bar.update()
                continue
            yield Work(source, target, photo, factor, (width, height), own)


def batches(works: Iterable[Work], size: int) -> Iterator[list[Work]]:
    """Collect up to `size` neighbours that have one size and as many bits per channel, and whose results have."""
    batch: list[Work] = []
    for work in works:
        if batch and _kind(batch[0]) != _kind(work):
            yield batch
            batch = []
        batch.append(work)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _kind(work: Work) -> tuple[tuple[int, int], float, bool]:
    return work.photo.image.size, work.upscale, work.photo.deep is None
