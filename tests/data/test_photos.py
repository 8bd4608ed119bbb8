"""The order of photographs: those with numbers, and those of a stream that is dealt out; and which make a pair."""

import io
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_settings import DegradationConfig
from diffusers_sr.data.pairs import pair_photos
from diffusers_sr.data.photos import Permuted, PhotoFiles, PhotoStream, StoredPhoto


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Source:
    """Seven photos in each lane, which come backwards in every other pass; says who read what."""

    def __init__(self, damaged: str = "") -> None:
        self.damaged = damaged
        self.read: list[str] = []

    def __call__(self, lane: int, turn: int) -> Iterator[StoredPhoto]:
        for number in range(7) if turn % 2 == 0 else reversed(range(7)):
            name = f"{lane}/{number}"
            self.read.append(name)
            yield StoredPhoto(name, b"" if name == self.damaged else png(10 * lane + number), f"{name} {os.getpid()}")


def names(order: Permuted | PhotoStream, indices: range) -> list[str]:
    return [next(order.following(index)).name for index in indices]


def test_what_follows_goes_on_into_the_next_pass() -> None:
    order = Permuted(PhotoFiles([Path(f"{number}.png") for number in range(5)]), seed=3)
    whole = names(order, range(15))
    assert [photo.name for photo in islice(order.following(3), 12)] == whole[3:]
    assert sorted(whole[:5]) == sorted(whole[5:10]) and whole[:5] != whole[5:10]


def test_a_stream_deals_batches_to_its_lanes() -> None:
    assert names(PhotoStream(Source(), lanes=2, batch_size=3), range(12)) == [
        *("0/0", "0/1", "0/2"), *("1/0", "1/1", "1/2"), *("0/3", "0/4", "0/5"), *("1/3", "1/4", "1/5")
    ]  # fmt: skip


def test_a_stream_is_cut_anywhere_and_goes_on() -> None:
    whole = names(PhotoStream(Source(), 2, 3), range(60))
    for start in (1, 7, 30):
        assert names(PhotoStream(Source(), 2, 3), range(start, 60)) == whole[start:]
    stream = PhotoStream(Source(), 2, 3)
    assert names(stream, range(10, 20)) == whole[10:20]
    assert names(stream, range(0, 20)) == whole[:20], "backwards, too"
    assert len(set(whole[:42])) == 14, "each photo once a pass"


def test_a_stream_goes_on_without_a_damaged_photo() -> None:
    crops = PhotoCrops(PhotoStream(Source(damaged="0/2"), 1, 2), 8)
    tags = [str(crops[index]["tags"]).split()[0] for index in range(7)]
    assert tags == ["0/0", "0/1", "0/3", "0/3", "0/4", "0/5", "0/6"]
    assert list(crops.skipped) == ["0/2"]
    source = Source()
    crops = PhotoCrops(PhotoStream(source, 1, 2), 8)
    for index in range(5):
        crops[index]
    assert len(source.read) == 5, "nothing is read ahead or again"


def test_each_worker_of_each_process_reads_one_lane() -> None:
    """As the engine divides samples: batches to processes by accelerate, and those of a process to its workers."""
    processes, workers, batch_size, count, start = 2, 2, 3, 48, 12
    seen: dict[int, set[str]] = {}
    samples: list[str] = []
    for process in range(processes):
        crops = PhotoCrops(PhotoStream(Source(), processes * workers, batch_size), 8)
        batches = BatchSampler(range(start, start + count), batch_size, drop_last=False)
        loader = DataLoader(crops, batch_sampler=BatchSamplerShard(batches, processes, process), num_workers=workers)
        for batch in loader:
            for name, pid in (each.split() for each in batch["tags"]):
                seen.setdefault(int(pid), set()).add(name.split("/")[0])
                samples.append(name)
    assert len(seen) == processes * workers and all(len(lanes) == 1 for lanes in seen.values())
    assert set.union(*seen.values()) == {"0", "1", "2", "3"}
    alone = PhotoStream(Source(), processes * workers, batch_size)
    assert sorted(samples) == sorted(names(alone, range(start, start + count)))


def test_streamed_samples_do_not_depend_on_who_reads_them() -> None:
    def samples(workers: int) -> list[float]:
        crops = PhotoCrops(PhotoStream(Source(), 2, 2), 8, degradation=DegradationConfig())
        batches = BatchSampler(range(8), 2, drop_last=False)
        return [
            float(each["degraded"].sum()) for each in DataLoader(crops, batch_sampler=batches, num_workers=workers)
        ]

    assert samples(0) == samples(2)


def test_a_part_without_photos_is_an_error() -> None:
    with pytest.raises(ValueError, match="Part 1 of the stream holds no photo"):
        names(PhotoStream(lambda lane, turn: iter([] if lane else [StoredPhoto("a", b"")]), 2, 1), range(2))


def test_streamed_photos_have_no_names() -> None:
    with pytest.raises(ValueError, match="leave out --streaming"):
        PhotoCrops(PhotoStream(Source(), 1, 1), 8, references={"a": {"b": 1.0}})


def test_pairs_are_compared_upright(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[274] = 6
    Image.new("RGB", (32, 16)).save(tmp_path / "a.jpg", exif=turned)  # upright 16x32
    Image.new("RGB", (4, 8)).save(tmp_path / "a.png")
    assert pair_photos([tmp_path / "a.jpg"], [tmp_path / "a.png"], 4) == [tmp_path / "a.png"]
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.jpg is 16x32 pixels, a.png 8x4"):
        pair_photos([tmp_path / "a.jpg"], [tmp_path / "a.png"], 4)
