"""The photographs that a run trains on, by its options."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data.dataset import PhotoCrops
from ..data.degradation_mixture import DEGRADATIONS, Degradation, at_low_resolution
from ..data.hub_photos import HubPhotos, load_rows, stream_photos
from ..data.lists import list_images, listed_names, photos_by_folder
from ..data.pairs import pair_photos
from ..data.photos import PhotoFiles, PhotoGroup, Photos, PhotoStream, StoredPhoto
from ..data.references import References
from ..data.shard_stream import stream_shards
from ..data.shards import ShardPhotos, list_shards
from .arguments import PhotoArguments, RestorationArguments, TrainingArguments
from .text import TextArguments, asks_for_none, check_texts, named_texts, read_texts, text_options

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

    @property
    def texts(self) -> Sequence[str]:
        """The texts that are stored with them."""
        texts = self.photos.texts
        return [texts[number] for number in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> StoredPhoto:
        return self.photos[self.numbers[number]]


def stored_photos(
    arguments: PhotoArguments,
    low_resolution_dir: str | None = None,
    scale: int = SCALE,
    weights: Sequence[float] | None = None,
) -> Photos:
    """Find the photographs that the options name, by number.

    Args:
        arguments: the options.
        low_resolution_dir: folder of their low-resolution versions, which only photos of a folder can have.
        scale: how many times wider and higher the photos are than those versions.
        weights: how often each folder is drawn from.

    Raises:
        ValueError: if not exactly one source is named; there is no photo; a photo to leave out does not exist; a photo
            and its low-resolution version do not match; or the weights do not fit the folders.
        ImportError: if the package datasets is needed but not installed.
    """
    _check_sources(arguments, low_resolution_dir, weights)
    photos: Photos
    if folders := arguments.photo_folders:
        photos = folder_photos(folders, arguments.exclude_data, arguments.max_train_samples, weights)
        if low_resolution_dir is not None:
            photos = _with_low_resolution(photos, folders, low_resolution_dir, scale)
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


def folder_photos(
    folders: Sequence[str], exclude: str | None, most: int | None = None, weights: Sequence[float] | None = None
) -> PhotoFiles:
    """Find the photographs of folders, one folder after the other.

    Args:
        folders: the folders.
        exclude: file that lists photos to leave out.
        most: number of photos after which to stop.
        weights: how often each folder is drawn from; by default all photos are drawn equally often.

    Raises:
        ValueError: if `photos_by_folder` raises it; or there is not one weight for each folder, or no photo of one.
    """
    groups = photos_by_folder(folders, exclude)
    paths = [path for group in groups for path in group][:most]
    if weights is None:
        return PhotoFiles(paths)
    if len(weights) != len(folders):
        raise ValueError(
            f"--train_data_weights has {len(weights)} values, and --train_data_dir {len(folders)} folders: give one "
            "weight for each."
        )
    ends = [min(end, len(paths)) for end in accumulate(map(len, groups), initial=0)]
    ranges = [range(start, end) for start, end in pairwise(ends)]
    if empty := [folder for folder, numbers in zip(folders, ranges, strict=True) if not numbers]:
        raise ValueError(
            f"No photo of {' and '.join(map(repr, empty))} is left (--exclude_data, --max_train_samples), but "
            "--train_data_weights gives a weight for it: leave out the folder and its weight."
        )
    return PhotoFiles(paths, groups=[PhotoGroup(*each) for each in zip(ranges, weights, strict=True)])


def _with_low_resolution(photos: PhotoFiles, folders: Sequence[str], folder: str, scale: int) -> PhotoFiles:
    left_out = {path.stem for each in folders for path in list_images(each)} - {path.stem for path in photos.paths}
    low_resolution = [path for path in list_images(folder) if path.stem not in left_out]
    return PhotoFiles(photos.paths, pair_photos(photos.paths, low_resolution, scale), photos.groups)


def streamed_photos(arguments: TrainingArguments, text: TextArguments | None = None) -> PhotoStream:
    """Read the photographs of a data set or of shards while training: one lane for each loader worker of each process.

    Args:
        arguments: the options of the trainer.
        text: the same, if it trains with captions; whether all photos have one shows only when they are read.

    Raises:
        ValueError: if a folder would have to be streamed, or single photos left out; captions are needed, and come
            from elsewhere or, without `allow_missing_text`, from nowhere; or `stream_shards` raises it.
        ImportError: if the package datasets is not installed.
    """
    _check_sources(arguments, None, arguments.train_data_weights)
    if arguments.train_data_dir is not None or arguments.exclude_data is not None:
        raise ValueError(
            "--streaming is for --dataset_name and --train_shards_path_or_url, and without --exclude_data: streamed "
            "photos have no names."
        )
    if named := named_texts(arguments):
        raise ValueError(
            f"--{next(iter(named))} needs the photos' names, and streamed photos have none: give --caption_column, or "
            "shards with texts, or leave out --streaming."
        )
    requires_text = text is not None and not text.allow_missing_text
    lanes = PartialState().num_processes * max(arguments.dataloader_num_workers, 1)
    if arguments.train_shards_path_or_url is not None:
        if arguments.max_train_samples is not None:
            raise ValueError("Streamed shards are read whole: name fewer of them instead of --max_train_samples.")
        shards = list_shards(arguments.train_shards_path_or_url)
        return stream_shards(shards, arguments.seed, lanes, arguments.train_batch_size, requires_text)
    if requires_text and arguments.caption_column is None:
        raise ValueError(
            "The streamed photos have no tags or captions: give --caption_column, or train without them "
            "(--allow_missing_text true)."
        )
    rows = _rows(arguments, streaming=True)
    if arguments.max_train_samples is not None:
        rows = rows.take(arguments.max_train_samples)
    return stream_photos(
        rows,
        arguments.image_column,
        arguments.caption_column,
        arguments.seed,
        lanes,
        arguments.train_batch_size,
        requires_text,
    )


def photo_crops(
    arguments: TrainingArguments,
    low_resolution_dir: str | None = None,
    **options: Any,
) -> PhotoCrops:
    """Make the run's samples: crops of its photos, with texts if the trainer's options are `TextArguments`.

    Args:
        arguments: the options of the trainer.
        low_resolution_dir: folder of the photos' low-resolution versions.
        options: further arguments of `PhotoCrops`.

    Raises:
        ValueError: if `stored_photos`, `streamed_photos`, `text_options`, `read_texts` or `check_texts` raises it, or
            streamed photos, which have no names, are to have texts from a table or a folder.
        FileNotFoundError: if `read_texts` raises it.
        ImportError: if the package datasets is needed but not installed.
    """
    options["resize_mode"] = arguments.resize_mode
    text = text_options(arguments)
    if arguments.streaming:
        return PhotoCrops(streamed_photos(arguments, text), arguments.resolution, arguments.seed, **options)
    photos = stored_photos(arguments, low_resolution_dir, weights=arguments.train_data_weights)
    texts = None
    if text is not None:
        texts = read_texts(arguments, photos)
        check_texts(photos, texts, text.allow_missing_text or asks_for_none(arguments))
    return PhotoCrops(photos, arguments.resolution, arguments.seed, tags=texts, **options)


def degraded_crops(
    arguments: RestorationArguments,
    references: References | None = None,
    degradation: Degradation | None = None,
) -> PhotoCrops:
    """Make the run's samples with their tags, and with references if they are given.

    They are the user's own pairs, or crops that are degraded: by default by the degradation that the options name, at
    the low resolution.

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
        degradation=degradation or at_low_resolution(DEGRADATIONS[arguments.degradation]),
        sharpen_target=arguments.sharpen_target,
        references=references,
        degrade_later=device == "accelerator",
    )


def _check_sources(arguments: PhotoArguments, low_resolution_dir: str | None, weights: Sequence[float] | None) -> None:
    sources = ("train_data_dir", "dataset_name", "train_shards_path_or_url")
    named = [name for name in sources if getattr(arguments, name) is not None]
    if len(named) != 1:
        raise ValueError(
            f"The photos come from one of {', '.join(f'--{name}' for name in sources)}, but "
            f"{' and '.join(f'--{name}' for name in named) or 'none'} {'are' if len(named) > 1 else 'is'} given."
        )
    if low_resolution_dir is not None and arguments.train_data_dir is None:
        raise ValueError("--train_lr_dir belongs to photos of a folder: give --train_data_dir.")
    if weights is not None and arguments.train_data_dir is None:
        raise ValueError("--train_data_weights belongs to photos of folders: give --train_data_dir.")


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
