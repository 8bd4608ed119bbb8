"""The index that is kept beside a shard: a shard that has not changed is not read again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from diffusers_sr.data.photos import StoredPhoto
from diffusers_sr.data.shard_index import index_path
from diffusers_sr.data.shards import ShardPhotos, list_shards, write_shard
from tests.permissions import without_rights


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "0.tar"
    write_shard(path, [StoredPhoto("a.png", b"first", "sky, sea"), StoredPhoto("b\udc80.jpg", b"second", "Bäume")])
    return path


def content(photos: ShardPhotos) -> list[tuple[str, object, str]]:
    return [(photo.name, photo.file, photo.tags) for photo in (photos[number] for number in range(len(photos)))]


def overwrite(shard: Path) -> os.stat_result:
    """Put other bytes in the place of a shard's: its headers can no longer be read. Give its earlier state."""
    before = shard.stat()
    shard.write_bytes(b"\0" * before.st_size)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    return before


def test_a_shard_that_has_not_changed_is_not_read_again(shard: Path) -> None:
    first = ShardPhotos([shard])
    assert content(first) == [("a.png", b"first", "sky, sea"), ("b\udc80.jpg", b"second", "Bäume")]
    assert list_shards(shard.parent) == [shard], "the index is none"
    assert content(ShardPhotos([shard])) == content(first)
    overwrite(shard)
    again = ShardPhotos([shard])
    assert again.names == first.names
    assert [again[number].tags for number in (0, 1)] == ["sky, sea", "Bäume"]


def test_a_shard_that_has_changed_is_read_again(shard: Path) -> None:
    ShardPhotos([shard])
    before = shard.stat()
    shard.write_bytes(shard.read_bytes().replace(b"a.png", b"c.png"))
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert ShardPhotos([shard]).names == ["c.png", "b\udc80.jpg"]
    write_shard(shard, [StoredPhoto("d.png", b"longer than it was", "x" * 20_000)])
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert ShardPhotos([shard]).names == ["d.png"]
    # Another shard's index under its name.
    other = shard.with_name("1.tar")
    write_shard(other, [StoredPhoto("e.png", b"longer than it was", "x" * 20_000)])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    index_path(shard).rename(index_path(other))
    assert ShardPhotos([other]).names == ["e.png"]


@pytest.mark.parametrize("harm", [b"", b"{}", b'{"shard": []', b"[]", b"\xff\xfe"])
def test_a_damaged_index_is_made_anew(shard: Path, harm: bytes) -> None:
    names = ShardPhotos([shard]).names
    whole = index_path(shard).read_bytes()
    index_path(shard).write_bytes(harm)
    assert ShardPhotos([shard]).names == names
    assert index_path(shard).read_bytes() == whole
    assert sorted(path.name for path in shard.parent.iterdir()) == [".0.tar.index.json", "0.tar"]


def test_where_no_index_can_be_kept_it_is_said_once(shard: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = shard.with_name("1.tar")
    write_shard(other, [StoredPhoto("c.png", b"third")])
    shard.parent.chmod(0o555)
    try:
        with without_rights():
            assert len(ShardPhotos([shard, other])) == 3
    finally:
        shard.parent.chmod(0o755)
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "every start reads their headers" in record.getMessage()
    assert not index_path(shard).exists()
