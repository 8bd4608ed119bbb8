"""The photographs of a run, and the order they come in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple, Protocol

import fsspec
import torch

from ..image.decoding import ImageFileError, on_white, read, to_array
from .names import unique_names
from .seeds import sample_generator


class StoredPhoto(NamedTuple):
    """A photograph that has not been decoded."""

    name: str
    """The name that tags and references are found by: the file's, or the number of a data set's row, as 00000012.

    Where files in several folders have the same name it is the end of the path.
    """
    file: Path | str | bytes
    """Its file, a URL that fsspec opens, or the contents of one of these."""
    tags: str = ""
    """Tags or caption that are stored with it."""
    degraded: Path | None = None
    """Its low-resolution version, where the user has one."""
    number: int | None = None
    """Its position in the run's list of photos; those of a stream have none."""


class Photos(Protocol):
    """Photographs by number."""

    @property
    def names(self) -> Sequence[str]:
        """The photos' names, by number."""

    @property
    def texts(self) -> Sequence[str]:
        """The tags or captions that are stored with the photos, by number."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int) -> StoredPhoto: ...


class PhotoGroup(NamedTuple):
    """A part of the photographs of a run, such as those of one folder, and how often it is drawn."""

    numbers: range
    """The numbers of its photos."""
    weight: float
    """Its share of the samples, in proportion to the other groups' weights."""


class PhotoFiles:
    """Photographs that are files.

    Args:
        paths: the files.
        degraded: their low-resolution versions, in the same order.
        groups: parts of them, of which chance draws one for each sample; by default all of them are one.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        degraded: Sequence[Path] | None = None,
        groups: Sequence[PhotoGroup] | None = None,
    ) -> None:
        self.paths = list(paths)
        self.names = unique_names(self.paths)
        self.texts = [""] * len(self.paths)
        self.degraded = degraded
        self.groups = groups

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> StoredPhoto:
        degraded = None if self.degraded is None else self.degraded[number]
        return StoredPhoto(self.names[number], self.paths[number], degraded=degraded)


class Permuted:
    """Photographs without end, in a new order in every pass, which depends on their number and the seed.

    Args:
        photos: the photographs.
        seed: seed of the order.
        numbers: the numbers of those to take; by default all.
    """

    def __init__(self, photos: Photos, seed: int, numbers: range | None = None) -> None:
        self.photos = photos
        self.seed = seed
        self._numbers = range(len(photos)) if numbers is None else numbers
        self._passes: dict[int, torch.Tensor] = {}

    def numbers(self, index: int) -> Iterator[int]:
        """Give the numbers of the photos from the `index`-th of the run on, without reading them."""
        for each in count(index):
            turn, position = divmod(each, len(self._numbers))
            yield self._numbers[int(self._permutation(turn)[position])]

    def following(self, index: int) -> Iterator[StoredPhoto]:
        """Give the photos from the `index`-th of the run on."""
        return (self.photos[number]._replace(number=number) for number in self.numbers(index))

    def _permutation(self, turn: int) -> torch.Tensor:
        if turn not in self._passes:
            generator = sample_generator(self.seed, f"pass {turn}")
            # Two are kept, since the end of a pass and the beginning of the next are read alternately.
            kept = [*self._passes.items()][-1:]
            self._passes = {**dict(kept), turn: torch.randperm(len(self._numbers), generator=generator)}
        return self._passes[turn]


class WeightedGroups:
    """Photographs without end, of a group that chance draws for each sample by its weight.

    Sample `index` of the run is the `index`-th photo of the order that the drawn group has for itself: it depends on
    nothing but the groups, the seed and `index`.

    Args:
        photos: the photographs.
        groups: the parts that they are drawn from.
        seed: seed of the draws and of the groups' orders.
    """

    def __init__(self, photos: Photos, groups: Sequence[PhotoGroup], seed: int) -> None:
        self.seed = seed
        self._orders = [Permuted(photos, seed, group.numbers) for group in groups]
        self._weights = torch.tensor([group.weight for group in groups], dtype=torch.float64)

    def numbers(self, index: int) -> Iterator[int]:
        """Give the numbers of the photos from the `index`-th of the drawn group on."""
        generator = sample_generator(self.seed, f"group/{index}")
        return self._orders[int(torch.multinomial(self._weights, 1, generator=generator))].numbers(index)


class PhotoStream:
    """Photographs that can only be read one after another, such as those of a data set that is streamed.

    They are dealt out to `lanes`, batch by batch: batch b of the run is the next one of lane b modulo `lanes`. With as
    many lanes as there are processes times loader workers, each worker reads one lane, and never another's photos. A
    run that is resumed reads each lane again up to where it stopped, without decoding.

    So the order depends on `lanes` and `batch_size`: a run that is resumed has to keep both. Going backwards reads a
    lane from its start.

    Args:
        read: called with a lane and the number of a pass, from 0 on; gives the photos of this lane in the order of
            this pass.
        lanes: number of lanes.
        batch_size: samples of one process in one step.
    """

    def __init__(self, read: Callable[[int, int], Iterator[StoredPhoto]], lanes: int, batch_size: int) -> None:
        self.lanes = [_Lane(read, lane) for lane in range(lanes)]
        self.batch_size = batch_size

    def following(self, index: int) -> Iterator[StoredPhoto]:
        """Give the photos from the `index`-th of the run on, those of its lane alone."""
        batch, place = divmod(index, self.batch_size)
        turn, lane = divmod(batch, len(self.lanes))
        return self.lanes[lane].following(turn * self.batch_size + place)


class _Lane:
    """Photos read one after another; those from the last requested position on are kept."""

    def __init__(self, read: Callable[[int, int], Iterator[StoredPhoto]], number: int) -> None:
        self.read = read
        self.number = number
        self.photos: Iterator[StoredPhoto] | None = None  # opened by the process that reads
        self.position = 0
        self.kept: deque[StoredPhoto] = deque()

    def following(self, position: int) -> Iterator[StoredPhoto]:
        if self.photos is None or position < self.position:
            self.photos, self.position = self._passes(), 0
            self.kept.clear()
        while self.position < position:
            if self.kept:
                self.kept.popleft()
            else:
                next(self.photos)
            self.position += 1
        for ahead in count():
            while len(self.kept) <= ahead:
                self.kept.append(next(self.photos))
            yield self.kept[ahead]

    def _passes(self) -> Iterator[StoredPhoto]:
        for turn in count():
            is_empty = True
            for photo in self.read(self.number, turn):
                is_empty = False
                yield photo
            if is_empty:
                raise ValueError(
                    f"Part {self.number} of the stream holds no photo: use fewer processes or loader workers."
                )


def read_file(file: Path | str | bytes) -> bytes:
    """Read the contents of a photo's file, given as in `StoredPhoto`.

    Raises:
        OSError: if it does not exist, or cannot be obtained.
    """
    if isinstance(file, bytes):
        return file
    with fsspec.open(str(file), "rb") as opened:
        return bytes(opened.read())


def read_image(file: Path | str | bytes) -> torch.Tensor:
    """Read one photo, given as in `StoredPhoto`, as uint8 RGB, [3, height, width].

    It is turned upright as its EXIF data says, and its transparent parts are put on white.

    Raises:
        ImageFileError: if it cannot be read, or holds pixels of unknown range.
        OSError: if a URL cannot be fetched, which says nothing about the photo.
    """
    if isinstance(file, str) and "://" in file:
        file = read_file(file)
    try:
        image, alpha, _ = read(file)
    except ImageFileError as error:
        raise ImageFileError(f"cannot be read: {error}") from error
    if alpha is not None:
        image, alpha = on_white(image, alpha), None  # its memory is needed
    return torch.from_numpy(to_array(image)).permute(2, 0, 1)
