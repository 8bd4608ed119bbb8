"""Photographs of a run that cannot be used: remembered by all of its loader workers, and said."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from ..image.decoding import ImageFileError
from ..image.names import printable
from .photos import StoredPhoto
from .squares import REMEDY, TooSmallError

logger = logging.getLogger(__name__)


class SkippedPhotos:
    """The photos that were skipped so far, by whichever of a process's loader workers: they share this memory.

    Args:
        names: the names of the run's photos, by number; None for a stream, whose photos come under another name in
            each pass: each of its workers has a list of its own, and nothing is remembered.
    """

    def __init__(self, names: Sequence[str] | None) -> None:
        self._names = names
        self._told: set[str] = set()
        self._is_skipped, self._is_unusable, self._is_small = (
            torch.zeros(len(names or ()), dtype=torch.bool).share_memory_() for _ in range(3)
        )
        self._has_told_small, self._has_told_number = (
            torch.zeros((), dtype=torch.bool).share_memory_() for _ in range(2)
        )
        self._first_pass: int | None = None

    @property
    def names(self) -> list[str]:
        """The names of the photos that were skipped."""
        if self._names is None:
            return sorted(self._told)
        return [self._names[number] for number in self._is_skipped.nonzero().flatten().tolist()]

    def is_unusable(self, number: int) -> bool:
        """Whether a photo itself was found unusable, so that it need not be read again."""
        return bool(self._is_unusable[number])

    def check(self, number: int) -> None:
        """Raise ImageFileError if a photo itself was found unusable."""
        if self.is_unusable(number):
            raise TooSmallError("is smaller than the crop") if self._is_small[number] else ImageFileError("is damaged")

    def remember(self, number: int | None, error: ImageFileError) -> None:
        """Remember that a photo itself is unusable."""
        if number is not None:
            self._is_small[number] = isinstance(error, TooSmallError)
            self._is_unusable[number] = True

    def tell(self, photo: StoredPhoto, error: ImageFileError) -> None:
        """Log that a photo is skipped, once; of those that are too small only the first one."""
        if photo.number is None:
            is_told = photo.name in self._told
            self._told.add(photo.name)
        else:
            is_told = bool(self._is_skipped[photo.number])
            self._is_skipped[photo.number] = True
        is_small = isinstance(error, TooSmallError)
        if is_small and photo.number is not None:
            self._is_small[photo.number] = True
        if is_told or (is_small and self._has_told_small):
            return
        logger.warning(
            "Skipped: %s. The next photo takes its place. Skipped so far: %d.%s",
            printable(f"{photo.name} {error}"),
            len(self.names),
            f" More photos that are too small are counted, not listed: {REMEDY}." if is_small else "",
        )
        if is_small:
            self._has_told_small.fill_(True)

    def tell_number(self, index: int) -> None:
        """Log, once, how many photos were too small, when sample `index` begins another pass than the worker's first.

        A pass is as many samples as there are photos.
        """
        if self._names is None or self._has_told_number:
            return
        turn = index // len(self._names)
        if self._first_pass is None:
            self._first_pass = turn
        if turn > self._first_pass and self._has_told_small:
            self._has_told_number.fill_(True)
            logger.warning(
                "%d of the %d photos were skipped so far because they or their references are smaller: %s.",
                int((self._is_small & self._is_skipped).sum()),
                len(self._names),
                REMEDY,
            )
