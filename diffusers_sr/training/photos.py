"""The photographs that a run trains on, by its options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data.dataset import PhotoCrops
from ..data.degradation_mixture import Degradation
from ..data.degradation_settings import DegradationConfig
from ..data.hub_photos import HubPhotos, load_rows, stream_photos
from ..data.lists import list_images, listed_names, training_photos
from ..data.pairs import pair_photos
from ..data.photos import PhotoFiles, Photos, PhotoStream, StoredPhoto
from ..data.references import References
from ..data.shard_stream import stream_shards
from ..data.shards import ShardPhotos, list_shards
from ..data.tags import photo_tags
from .arguments import PhotoArguments, RestorationArguments, TrainingArguments

SCALE = 4
DEGRADATION_DEVICES = ("worker", "accelerator")


class SomePhotos:
    """Some of the photographs of another source.

    Args:
        photos: the source.
        numbers: the numbers of those to take, in their order.
    """

    def __init__(self, photos: Photos, numbers: Sequence[int]) -> None:
        self.photos = photos
        self.numbers = numbers
        self.names = [photos.names[number] for number in numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> StoredPhoto:
        return self.photos[self.numbers[number]]


def stored_photos(arguments: PhotoArguments, low_resolution_dir: str | None = None, scale: int = SCALE) -> Photos:
    """Find the photographs that the options name, by number.

    Args:
        arguments: the options.
        low_resolution_dir: folder of their low-resolution versions, which only photos of a folder can have.
        scale: how many times wider and higher the photos are than those versions.

    Raises:
        ValueError: if not exactly one source is named; there is no photo; a photo to leave out does not exist; or a
            photo and its low-resolution version do not match.
        ImportError: if the package datasets is needed but not installed.
    """
    _check_sources(arguments, low_resolution_dir)
    photos: Photos
    if arguments.train_data_dir is not None:
        photos = _folder_photos(arguments, arguments.train_data_dir, low_resolution_dir, scale)
    else:
        if arguments.dataset_name is not None:
            photos = HubPhotos(_rows(arguments, streaming=False), arguments.image_column, arguments.caption_column)
        else:
            assert arguments.train_shards_path_or_url is not None
            photos = ShardPhotos(list_shards(arguments.train_shards_path_or_url))
        if arguments.exclude_data is not None:
            excluded = listed_names(arguments.exclude_data, [*map(Path, photos.names)])
            photos = SomePhotos(photos, [n for n, name in enumerate(photos.names) if name not in excluded])
        if arguments.max_train_samples is not None:
            photos = SomePhotos(photos, range(len(photos))[: arguments.max_train_samples])
    if len(photos) == 0:
        raise ValueError("No photo is left: all are left out (--exclude_data), or the data set is empty.")
    return photos


def _folder_photos(arguments: PhotoArguments, folder: str, low_resolution_dir: str | None, scale: int) -> PhotoFiles:
    paths = training_photos(folder, arguments.exclude_data)[: arguments.max_train_samples]
    if low_resolution_dir is None:
        return PhotoFiles(paths)
    left_out = {path.stem for path in list_images(folder)} - {path.stem for path in paths}
    low_resolution = [path for path in list_images(low_resolution_dir) if path.stem not in left_out]
    return PhotoFiles(paths, pair_photos(paths, low_resolution, scale))


def streamed_photos(arguments: TrainingArguments) -> PhotoStream:
    """Read the photographs of a data set or of shards while training: one lane for each loader worker of each process.

    Raises:
        ValueError: if a folder would have to be streamed, single photos left out, or `stream_shards` raises it.
        ImportError: if the package datasets is not installed.
    """
    _check_sources(arguments, None)
    if arguments.train_data_dir is not None or arguments.exclude_data is not None:
        raise ValueError(
            "--streaming is for --dataset_name and --train_shards_path_or_url, and without --exclude_data: streamed "
            "photos have no names."
        )
    lanes = PartialState().num_processes * max(arguments.dataloader_num_workers, 1)
    if arguments.train_shards_path_or_url is not None:
        if arguments.max_train_samples is not None:
            raise ValueError("Streamed shards are read whole: name fewer of them instead of --max_train_samples.")
        shards = list_shards(arguments.train_shards_path_or_url)
        return stream_shards(shards, arguments.seed, lanes, arguments.train_batch_size)
    rows = _rows(arguments, streaming=True)
    if arguments.max_train_samples is not None:
        rows = rows.take(arguments.max_train_samples)
    return stream_photos(
        rows, arguments.image_column, arguments.caption_column, arguments.seed, lanes, arguments.train_batch_size
    )


def photo_crops(
    arguments: TrainingArguments,
    low_resolution_dir: str | None = None,
    tags_file: str | None = None,
    **options: Any,
) -> PhotoCrops:
    """Make the run's samples: crops of its photos.

    Args:
        arguments: the options of the trainer.
        low_resolution_dir: folder of the photos' low-resolution versions.
        tags_file: table of the photos' tags.
        options: further arguments of `PhotoCrops`.

    Raises:
        ValueError: if `stored_photos`, `streamed_photos` or `photo_tags` raises it, or streamed photos, which have no
            names, are to have tags from a table.
        ImportError: if the package datasets is needed but not installed.
    """
    if arguments.streaming:
        if tags_file is not None:
            raise ValueError(
                "--tags_file needs the photos' names, and streamed photos have none: give --caption_column, or leave "
                "out --streaming."
            )
        return PhotoCrops(streamed_photos(arguments), arguments.resolution, arguments.seed, **options)
    photos = stored_photos(arguments, low_resolution_dir)
    tags = photo_tags(tags_file, photos)
    return PhotoCrops(photos, arguments.resolution, arguments.seed, tags=tags, **options)


def degraded_crops(
    arguments: RestorationArguments,
    references: References | None = None,
    degradation: Degradation = DegradationConfig(),
) -> PhotoCrops:
    """Make the run's samples with their tags, and with references if they are given.

    They are the user's own pairs, or crops that are degraded by a Real-ESRGAN recipe, by default that of SeeSR.

    Raises:
        ValueError: if the degradation device is unknown, or `photo_crops` or `PhotoCrops` raises it.
        ImportError: if `photo_crops` raises it.
    """
    device = arguments.degradation_device
    if device not in DEGRADATION_DEVICES:
        raise ValueError(f"degradation_device={device!r}: it has to be one of {', '.join(DEGRADATION_DEVICES)}.")
    return photo_crops(
        arguments,
        arguments.train_lr_dir,
        arguments.tags_file,
        degradation=degradation,
        sharpen_target=arguments.sharpen_target,
        references=references,
        degrade_later=device == "accelerator",
    )


def _check_sources(arguments: PhotoArguments, low_resolution_dir: str | None) -> None:
    sources = ("train_data_dir", "dataset_name", "train_shards_path_or_url")
    named = [name for name in sources if getattr(arguments, name) is not None]
    if len(named) != 1:
        raise ValueError(
            f"The photos come from one of {', '.join(f'--{name}' for name in sources)}, but "
            f"{' and '.join(f'--{name}' for name in named) or 'none'} {'are' if len(named) > 1 else 'is'} given."
        )
    if low_resolution_dir is not None and arguments.train_data_dir is None:
        raise ValueError("--train_lr_dir belongs to photos of a folder: give --train_data_dir.")


def _rows(arguments: PhotoArguments, streaming: bool) -> Any:
    assert arguments.dataset_name is not None
    return load_rows(
        arguments.dataset_name,
        arguments.dataset_config_name,
        arguments.dataset_split,
        streaming,
        arguments.image_column,
        arguments.caption_column,
    )
