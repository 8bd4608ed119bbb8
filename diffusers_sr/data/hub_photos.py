"""Photographs of a data set on the Hub, or from anything else that `datasets` loads."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from .photos import PhotoStream, StoredPhoto

# Rows that are held to be shuffled while streaming; their images stay encoded.
SHUFFLE_BUFFER = 1000


class HubPhotos:
    """The photographs of a map-style data set; their names are the numbers of their rows, such as 00000012.

    Args:
        dataset: `datasets.Dataset` whose images are not decoded.
        image_column: column of the images.
        caption_column: column of captions, or of lists of tags; or None.
    """

    def __init__(self, dataset: Any, image_column: str, caption_column: str | None) -> None:
        self.dataset = dataset
        self.image_column = image_column
        self.caption_column = caption_column
        self.names: Sequence[str] = [row_name(number) for number in range(len(dataset))]

    @property
    def texts(self) -> Sequence[str]:
        """The rows' captions, by number; they are read from the whole column."""
        if self.caption_column is None:
            return [""] * len(self)
        return [_row_text(caption) for caption in self.dataset[self.caption_column]]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> StoredPhoto:
        return row_photo(self.dataset[number], self.names[number], self.image_column, self.caption_column)


def row_name(number: int) -> str:
    """Name the photo of a row."""
    return f"{number:08d}"


def row_photo(row: Mapping[str, Any], name: str, image_column: str, caption_column: str | None) -> StoredPhoto:
    """Make the photo of a row whose image is not decoded: it is the bytes of a file, or its path or URL."""
    image = row[image_column]
    text = "" if caption_column is None else _row_text(row[caption_column])
    if image is None:
        return StoredPhoto(name, b"")  # cannot be read, as if it were damaged
    return StoredPhoto(name, image["path"] if image["bytes"] is None else image["bytes"], text)


def _row_text(caption: str | Sequence[str] | None) -> str:
    return (caption or "") if isinstance(caption, str | None) else ", ".join(caption)


def load_rows(
    name: str, config: str | None, split: str, streaming: bool, image_column: str, caption_column: str | None
) -> Any:
    """Load a data set with these columns, its images not decoded: a `Dataset`, or, streamed, an `IterableDataset`.

    Raises:
        ImportError: if the package datasets is not installed.
        ValueError: if a column is missing.
    """
    datasets = datasets_package()
    rows = datasets.load_dataset(name, config, split=split, streaming=streaming)
    columns = rows.column_names or list(next(iter(rows)))
    for option, column in (("image_column", image_column), ("caption_column", caption_column)):
        if column is not None and column not in columns:
            raise ValueError(f"--{option} {column}: the data set {name!r} has the columns {', '.join(columns)}.")
    wanted = [column for column in (image_column, caption_column) if column is not None]
    return rows.select_columns(wanted).cast_column(image_column, datasets.Image(decode=False))


def stream_photos(
    rows: Any,
    image_column: str,
    caption_column: str | None,
    seed: int,
    lanes: int,
    batch_size: int,
    requires_text: bool = False,
) -> PhotoStream:
    """Stream the photographs of a data set, shuffled anew in every pass.

    If the number of files is a multiple of `lanes`, each lane reads its own files; otherwise each reads all of them
    and takes its share. The order of the files is shuffled, and that of the rows within a buffer of `SHUFFLE_BUFFER`.
    Names give lane, pass and position, and are only useful in messages.

    Args:
        rows: `datasets.IterableDataset` whose images are not decoded.
        image_column: column of the images.
        caption_column: column of captions, or of lists of tags; or None.
        seed: seed of the shuffling.
        lanes, batch_size: as in `PhotoStream`.
        requires_text: whether reading a photo without a caption is an error.
    """
    datasets = datasets_package()

    def read(lane: int, turn: int) -> Iterator[StoredPhoto]:
        shuffled = rows.shuffle(seed=random.Random(f"{seed}/pass {turn}").getrandbits(32), buffer_size=SHUFFLE_BUFFER)
        own = datasets.distributed.split_dataset_by_node(shuffled, rank=lane, world_size=lanes)
        # `iter(own)` would divide a lane again, among the workers of a loader; `iter` with a batch size does not.
        for position, batch in enumerate(own.iter(batch_size=1)):
            row = {column: values[0] for column, values in batch.items()}
            photo = row_photo(row, f"{lane}/{turn}/{position}", image_column, caption_column)
            if requires_text and photo.file and not photo.tags:
                raise ValueError(
                    f"A streamed photo has no text in the column {caption_column!r}: give a data set in which all "
                    "have, or train without them (--allow_missing_text true)."
                )
            yield photo

    return PhotoStream(read, lanes, batch_size)


def datasets_package() -> ModuleType:
    """Import the package `datasets`. Raises ImportError, with the remedy, if it is not installed."""
    try:
        import datasets
        import datasets.distributed
    except ImportError as error:
        raise ImportError(
            "Data sets from the Hub need the package datasets: pip install 'diffusers-sr[train]'."
        ) from error
    return datasets
