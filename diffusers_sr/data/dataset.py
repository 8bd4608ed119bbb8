"""Training photographs: a folder of images as an endless, seeded stream of crops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..image.decoding import ImageFileError
from ..image.names import printable
from .color_jitter import jitter_color
from .degradation import degrade, degrade_batch
from .degradation_mixture import Degradation
from .photos import Permuted, PhotoFiles, Photos, PhotoStream, StoredPhoto, WeightedGroups, read_image
from .references import References, check_references
from .seeds import sample_generator
from .sharpening import usm_sharpen
from .skipped import SkippedPhotos
from .squares import REMEDY, RESIZE_MODES, fit
from .weighted_texts import drawn_text

# Decoding a photo costs more than degrading a crop of it. Photos stay decoded until they are this large, in all loader
# workers together; the others are decoded at every turn, as they would be if older ones made room for them.
_MOST_DECODED_BYTES = 1 << 30
# If this many photos in a row cannot be used, the folder is the wrong one.
_MOST_SKIPPED = 1000


class PhotoCrops(Dataset[dict[str, Tensor | str]]):
    """Random crops of photographs, without end; sample `index` is the same whatever the number of workers.

    Every pass over the photos is a new permutation of them; of `PhotoFiles` with groups, each group has passes of its
    own. A crop is flipped left to right half of the time.

    A photo that cannot be used, because its file is damaged or it is smaller than the crop, is skipped: the next photo
    in order takes its place (and has its own turn as well). It is not read again, and it is logged once, whichever
    loader worker came across it, with the number skipped so far; of those that are too small only the first is, and
    after a pass their number. Photos of a stream are not known in advance: they are read again in each pass.

    A sample holds
    - `target`: [3, crop_size, crop_size] in [0, 1];
    - `degraded` (with `degradation`, or for photos that have a low-resolution version): [3, crop_size / scale,
      crop_size / scale], or as large as the target if the degradation `enlarges`. It is made by degrading the crop:
      in SeeSR's official training data the USM-sharpened crop, which is then the target too. Or it is cut from the
      photo's low-resolution version, and the target is not sharpened;
    - `reference` (with `references`, and `degraded`): a crop of another photo, of the size of the target, and
      sharpened if the target is;
    - `tags`: the tags listed for the photo's name, or else those stored with the photo, or ""; of several captions
      one, which its seed draws (`drawn_text`);
    - `seed`: int64, for what the training step draws for this sample (noise, timestep);
    - `degradation_seed` instead of `degraded` (with `degrade_later`): int64; `complete` makes `degraded` from it.

    Args:
        photos: files, other photographs by number, or a stream of photographs, which has its own order.
        crop_size: side of the square crop in pixels.
        seed: seed of the run.
        degradation: how crops are degraded; None gives clean crops.
        sharpen_target: whether the crop is sharpened before it is degraded.
        scale: ratio of the target's side to the degraded crop's.
        tags: tags by file name.
        references: for every photo, the others that it may be shown with, and the weights they are drawn by.
        degrade_later: whether to leave sharpening and degrading to `complete`, which does them for a batch on its
            device.
        resize_mode: what is done with photos before they are cropped: see `squares.fit`.
        color_jitter: share of the crops whose colours are changed by `jitter_color`, for models that have to see all
            colours alike; those of photos with a low-resolution version are not.

    Raises:
        ValueError: if a photo has no reference, or one that is not among the photos; if samples are degraded and the
            crop's side is not a multiple of the scale; if photos are to be resized that have low-resolution versions;
            and, when a sample is read, if no photo can be used.
    """

    def __init__(
        self,
        photos: Sequence[Path] | Photos | PhotoStream,
        crop_size: int,
        seed: int = 0,
        degradation: Degradation | None = None,
        sharpen_target: bool = True,
        scale: int = 4,
        tags: dict[str, str] | None = None,
        references: References | None = None,
        degrade_later: bool = False,
        color_jitter: float = 0.0,
        resize_mode: str = "crop",
    ):
        if resize_mode not in RESIZE_MODES:
            raise ValueError(f"resize_mode={resize_mode!r}: it has to be one of {', '.join(RESIZE_MODES)}.")
        if degradation is not None and crop_size % scale:
            raise ValueError(f"A crop of {crop_size} pixels cannot be degraded: give a multiple of scale={scale}.")
        self.photos: Photos | None = None
        self._order: Permuted | WeightedGroups | PhotoStream
        if isinstance(photos, PhotoStream):
            self._order = photos
        else:
            self.photos = PhotoFiles(photos) if isinstance(photos, Sequence) else photos
            self._order = Permuted(self.photos, seed)
        if isinstance(self.photos, PhotoFiles):
            if self.photos.groups is not None:
                self._order = WeightedGroups(self.photos, self.photos.groups, seed)
            if self.photos.degraded is not None and resize_mode != "crop":
                raise ValueError(
                    f"Photos with low-resolution versions are not resized: leave out --resize_mode {resize_mode}."
                )
        self.crop_size = crop_size
        self.seed = seed
        self.degradation = degradation
        self.sharpen_target = sharpen_target
        self.scale = scale
        self.tags = tags or {}
        self.references = references or {}
        self.degrade_later = degrade_later
        self.color_jitter = color_jitter
        self.resize_mode = resize_mode
        self._skipped = SkippedPhotos(None if self.photos is None else self.photos.names)
        self._numbers: dict[str, int] = {}
        if references is not None:
            self._numbers = {name: number for number, name in enumerate(self.names)}
            check_references(references, self.names)
        self._decoded: dict[Path, Tensor] = {}
        self._decoded_bytes = 0

    @property
    def names(self) -> Sequence[str]:
        """The photos' names. Raises ValueError if they are streamed."""
        if self.photos is None:
            raise ValueError(
                "Streamed photos have no fixed names that references could be found by: leave out --streaming, or "
                "write the photos to shards (python training/prepare.py)."
            )
        return self.photos.names

    @property
    def skipped(self) -> list[str]:
        """Names of the photos that this process and its loader workers skipped so far; in a stream, this worker's."""
        return self._skipped.names

    @property
    def paths(self) -> list[Path]:
        """The photos' files. Raises ValueError if they are not files of a folder."""
        if not isinstance(self.photos, PhotoFiles):
            raise ValueError(
                "These photos are not files of a folder: give a folder of photographs (--train_data_dir)."
            )
        return self.photos.paths

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        self._skipped.tell_number(index)
        # Twice their number: the only usable photo may have just had its turn, and come last in the next pass.
        most = _MOST_SKIPPED if self.photos is None else min(2 * len(self.photos), _MOST_SKIPPED)
        last = "they were skipped before, as was logged"
        for photo in islice(self._candidates(index), most):
            if photo is None:
                continue
            try:
                return self._sample(photo, sample_generator(self.seed, index))
            except ImageFileError as error:
                self._skipped.tell(photo, error)
                last = printable(f"{photo.name} {error}")
        raise ValueError(
            f"{most} photos in a row cannot be used, the last because {last}: give photos that can be read and are at "
            f"least as large as --resolution ({REMEDY})."
        )

    def _candidates(self, index: int) -> Iterator[StoredPhoto | None]:
        """Give the photos that may be that of a sample, in order; None stands for one that is known to be unusable."""
        if isinstance(self._order, PhotoStream):
            yield from self._order.following(index)
            return
        assert self.photos is not None
        for number in self._order.numbers(index):
            yield None if self._skipped.is_unusable(number) else self.photos[number]._replace(number=number)

    def complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do what `degrade_later` left to do, for a batch of samples on any device; changes `batch`."""
        assert self.degradation is not None
        if self.sharpen_target:
            for name in {"target", "reference"} & batch.keys():
                batch[name] = usm_sharpen(batch[name])
        seeds = batch.pop("degradation_seed")
        batch["degraded"] = degrade_batch(batch["target"], seeds, self.degradation, self.scale)
        return batch

    def _sample(self, photo: StoredPhoto, generator: torch.Generator) -> dict[str, Tensor | str]:
        crop, low_resolution = self._crop(photo, generator)
        # Without jitter nothing is drawn for it: samples are those of before.
        if self.color_jitter and low_resolution is None and torch.rand((), generator=generator) < self.color_jitter:
            crop = jitter_color(crop, generator)
        sample: dict[str, Tensor | str] = {"target": crop, "tags": self.tags.get(photo.name, photo.tags)}
        sharpens = self.sharpen_target and not self.degrade_later and low_resolution is None
        if sharpens and self.degradation is not None:
            sample["target"] = crop = usm_sharpen(crop)
        if low_resolution is not None:
            sample["degraded"] = low_resolution
        elif self.degradation is not None and self.degrade_later:
            sample["degradation_seed"] = torch.randint(1 << 62, (), generator=generator)
        elif self.degradation is not None:
            sample["degraded"] = degrade(crop, generator, self.degradation, self.scale)
        if self.references and (low_resolution is not None or self.degradation is not None):
            reference = self._reference_crop(photo, generator)
            sample["reference"] = usm_sharpen(reference) if sharpens else reference
        sample["seed"] = seed = torch.randint(1 << 62, (), generator=generator)
        sample["tags"] = drawn_text(str(sample["tags"]), int(seed))
        return sample

    def _reference_crop(self, photo: StoredPhoto, generator: torch.Generator) -> Tensor:
        assert self.photos is not None
        names, weights = zip(*self.references[photo.name].items(), strict=True)
        name = names[int(torch.multinomial(torch.tensor(weights), 1, generator=generator))]
        number = self._numbers[name]
        try:
            self._skipped.check(number)
            return self._crop(self.photos[number]._replace(number=number), generator)[0]
        except ImageFileError as error:
            raise type(error)(f"has the reference {name}, which {error}") from error

    def _crop(self, photo: StoredPhoto, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Cut a crop of the photo, and the same of its low-resolution version if it has one."""
        try:
            image, low_resolution = self._read(photo)
        except ImageFileError as error:
            self._skipped.remember(photo.number, error)
            raise
        height, width = image.shape[-2:]
        step = 1 if low_resolution is None else self.scale
        top = step * int(torch.randint((height - self.crop_size) // step + 1, (), generator=generator))
        left = step * int(torch.randint((width - self.crop_size) // step + 1, (), generator=generator))
        flips = bool(torch.rand((), generator=generator) < 0.5)
        crop = _cut(image, top, left, self.crop_size, flips)
        if low_resolution is None:
            return crop, None
        return crop, _cut(low_resolution, top // step, left // step, self.crop_size // step, flips)

    def _read(self, photo: StoredPhoto) -> tuple[Tensor, Tensor | None]:
        image = self._decode(photo.file, fits=True)
        if photo.degraded is None:
            return image, None
        try:
            return image, self._decode(photo.degraded, fits=False)
        except ImageFileError as error:
            raise ImageFileError(f"has the low-resolution version {photo.degraded}, which {error}") from error

    def _decode(self, file: Path | str | bytes, fits: bool) -> Tensor:
        if isinstance(file, Path) and file in self._decoded:
            return self._decoded[file]
        photo = read_image(file)
        if fits:
            photo = fit(photo, self.crop_size, self.resize_mode)
        if isinstance(file, Path) and self.photos is not None:
            worker = get_worker_info()
            if self._decoded_bytes + photo.nbytes <= _MOST_DECODED_BYTES // (worker.num_workers if worker else 1):
                self._decoded[file] = photo
                self._decoded_bytes += photo.nbytes
        return photo


def _cut(image: Tensor, top: int, left: int, side: int, flips: bool) -> Tensor:
    """Cut a square out of uint8 [3, height, width], in [0, 1]."""
    crop = image[:, top : top + side, left : left + side].float() / 255
    return crop.flip(-1) if flips else crop
