"""Shards that are read from beginning to end, by the package `datasets`: for disks that are slow to seek."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..image.formats import READABLE
from .hub_photos import SHUFFLE_BUFFER, datasets_package
from .photos import PhotoStream, StoredPhoto

_IMAGES = [suffix.removeprefix(".") for suffix in READABLE]


def stream_shards(
    shards: Sequence[Path], seed: int, lanes: int, batch_size: int, requires_text: bool = False
) -> PhotoStream:
    """Stream the photographs of shards, shuffled anew in every pass.

    Each lane has shards of its own, and reads them one after another. Their order is shuffled, and that of the photos
    within a buffer of `SHUFFLE_BUFFER`. A sample's name is lane, pass and position, as in `stream_photos`.

    Args:
        shards: the tar files, uncompressed. A photo's tags or caption are in the text file of the same name.
        seed: seed of the shuffling.
        lanes, batch_size: as in `PhotoStream`.
        requires_text: whether reading a photo without a text is an error.

    Raises:
        ImportError: if the package datasets is not installed.
        ValueError: if there are fewer shards than lanes.
    """
    datasets = datasets_package()
    if len(shards) < lanes:
        raise ValueError(
            f"{len(shards)} shards cannot be dealt out to {lanes} loader workers: use fewer processes or loader "
            "workers, or write more shards (--photos_per_shard)."
        )
    image, text = datasets.Image(decode=False), datasets.Value("string")
    features = datasets.Features({**dict.fromkeys(_IMAGES, image), "txt": text})

    def read(lane: int, turn: int) -> Iterator[StoredPhoto]:
        files = {"train": [str(path) for path in shards[lane::lanes]]}
        rows: Any = datasets.load_dataset(
            "webdataset", data_files=files, split="train", streaming=True, features=features
        )
        rows = rows.select_columns(list(features))
        drawn = random.Random(f"{seed}/pass {turn}").getrandbits(32)
        shuffled = rows.shuffle(seed=drawn, buffer_size=SHUFFLE_BUFFER)
        # `iter(shuffled)` would divide a lane again, among the workers of a loader; `iter` with a batch size does not.
        for position, batch in enumerate(shuffled.iter(batch_size=1)):
            images = (batch[name][0] for name in _IMAGES)
            found = next((each["bytes"] for each in images if each is not None), None)
            if found is None:
                continue
            tags = (batch["txt"][0] or "").strip()
            if requires_text and not tags:
                raise ValueError(
                    "A photo of the streamed shards has no text: write shards in which all have one "
                    "(training/prepare.py), or train without them (--allow_missing_text true)."
                )
            yield StoredPhoto(f"{lane}/{turn}/{position}", found, tags)

    return PhotoStream(read, lanes, batch_size)
