"""Shards that are read from beginning to end, shuffled, each lane its own."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from diffusers_sr.data.photos import StoredPhoto
from diffusers_sr.data.shards import write_shard
from diffusers_sr.training.arguments import TrainingArguments
from diffusers_sr.training.photos import streamed_photos

pytest.importorskip("datasets")

SUFFIXES = ("png", "jpg", "webp")  # of different kinds, as whole photos have them


def arguments(folder: Path, **options: object) -> TrainingArguments:
    given = {"dataloader_num_workers": 2, "train_batch_size": 2, **options}
    return TrainingArguments(train_shards_path_or_url=str(folder), output_dir="unused", streaming=True, **given)  # type: ignore[arg-type]


def content(photo: StoredPhoto) -> str:
    assert isinstance(photo.file, bytes)
    return photo.file.decode()


def test_every_photo_comes_once_in_a_pass_in_another_order(tmp_path: Path) -> None:
    for shard in range(4):
        photos = [
            StoredPhoto(f"{number}.{suffix}", f"{shard}{number}".encode(), f"tags {shard}{number}")
            for number, suffix in enumerate(SUFFIXES)
        ]
        write_shard(tmp_path / f"{shard}.tar", photos)
    stream = streamed_photos(arguments(tmp_path))
    # Batches 0, 2, 4, ... are those of lane 0, which has six photos; each lane's second pass begins after three.
    passes = [[next(stream.following(index)) for index in range(start, start + 12)] for start in (0, 12)]
    everything = sorted(f"{shard}{number}" for shard in range(4) for number in range(3))
    for photos in passes:
        assert sorted(map(content, photos)) == everything
        assert all(photo.tags == f"tags {content(photo)}" for photo in photos)
        for lane in (0, 1):
            own = [photo for number, photo in enumerate(photos) if number // 2 % 2 == lane]
            assert {content(photo)[0] for photo in own} == ({"0", "2"} if lane == 0 else {"1", "3"})
    assert [photo.file for photo in passes[0]] != [photo.file for photo in passes[1]]
    # A run that is resumed reads the lane again up to where it was.
    resumed = streamed_photos(arguments(tmp_path))
    assert [photo.file for photo in islice(resumed.following(13), 3)] == [
        photo.file for photo in islice(stream.following(13), 3)
    ]


def test_what_cannot_be_streamed_is_said(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", [StoredPhoto("a.png", b"a")])
    with pytest.raises(ValueError, match="1 shards cannot be dealt out to 2 loader workers"):
        streamed_photos(arguments(tmp_path))
    with pytest.raises(ValueError, match="Streamed shards are read whole"):
        streamed_photos(arguments(tmp_path, max_train_samples=3))
    with pytest.raises(ValueError, match="--streaming is for --dataset_name and --train_shards_path_or_url"):
        streamed_photos(arguments(tmp_path, exclude_data="list.txt"))
