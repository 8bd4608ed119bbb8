"""Photographs in shards: tar files in the layout of WebDataset.

Neighbouring members whose names agree up to the first dot make a sample: an image (`00000012.jpg`), and perhaps a text
file with its tags or caption (`00000012.txt`), and a JSON file with the photo's name (`{"file": "red house.jpg"}`).

They are read by position, through an index of their headers, whereas the package webdataset reads them as streams. So
a pass sees each photo once, whatever the number of processes and workers, and a run is resumed exactly. The index of a
shard is kept beside it, hidden, so that its headers are read only once.
"""

from __future__ import annotations

import glob
import io
import json
import logging
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from ..image.formats import READABLE
from ..image.names import printable
from .names import is_utf8
from .photos import StoredPhoto, read_file
from .shard_index import Member, keep_index, kept_index

logger = logging.getLogger(__name__)


class ShardPhotos:
    """The photographs of shards, in the shards' order.

    The constructor reads the headers of all shards, and what they hold besides images, or else the index that an
    earlier one kept beside the shard, if the shard's size and time of change are still the same. In a folder that
    cannot be written no index is kept. A photo's name is the `file` of its JSON file, or else the name of its member.

    Args:
        shards: the tar files, uncompressed.

    Raises:
        ValueError: if a shard is not a whole tar file, its JSON is not as above, an image or text in it is a link or
            stored as a sparse file, or no shard holds an image.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = list(shards)
        self.names: list[str] = []
        self.texts: list[str] = []
        self._members: list[tuple[int, Member]] = []
        failure: OSError | None = None
        for number, shard in enumerate(self.shards):
            state = os.stat(shard)  # before it is read: if it changes meanwhile, its index is out of date
            members = kept_index(shard, state)
            if members is None:
                members = list(_read_index(shard))
                try:
                    keep_index(shard, state, members)
                except OSError as error:
                    failure = error
            self.names += [member.name for member in members]
            self.texts += [member.tags for member in members]
            self._members += [(number, member) for member in members]
        if failure is not None:
            logger.warning(
                "The index of the shards cannot be kept beside them, so that every start reads their headers: %s",
                failure,
            )
        if not self.names:
            raise ValueError(
                f"There is no image in {', '.join(map(str, shards))}: one has to end in {', '.join(READABLE)}."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> StoredPhoto:
        shard, member = self._members[number]
        with open(self.shards[shard], "rb") as file:
            file.seek(member.offset)
            return StoredPhoto(member.name, file.read(member.size), member.tags)


def list_shards(pattern: str | Path) -> list[Path]:
    """List the tar files of a folder, or those that match a pattern such as `shards/train-*.tar`, by name.

    Raises:
        ValueError: if there are none, or the pattern is a URL.
    """
    if "://" in str(pattern):
        raise ValueError(
            f"{str(pattern)!r} is a URL: shards are read from local files. A repository of shards on the Hub is read "
            "with --dataset_name."
        )
    found = Path(pattern).glob("*.tar") if Path(pattern).is_dir() else map(Path, glob.glob(str(pattern)))
    shards = sorted(found)
    if not shards:
        raise ValueError(
            f"No shard found: {str(pattern)!r} is not a folder with .tar files, nor a pattern that matches a file."
        )
    return shards


def write_shard(path: Path, photos: Iterable[StoredPhoto]) -> None:
    """Write a shard, whole or not at all. Equal photos, whose names end in an image's suffix, give an equal file."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with tarfile.open(unfinished, "w") as shard:
            for number, photo in enumerate(photos):
                content = read_file(photo.file)
                key = f"{path.stem}_{number:06d}"
                # Names that are not UTF-8 can only be written as escapes.
                about = json.dumps({"file": photo.name}, ensure_ascii=not is_utf8(photo.name))
                _add(shard, key + Path(photo.name).suffix.lower(), content)
                _add(shard, f"{key}.txt", photo.tags.encode())
                _add(shard, f"{key}.json", about.encode())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def _read_index(path: Path) -> Iterator[Member]:
    try:
        with tarfile.open(path, "r:") as shard:
            files = [member for member in shard if _is_plain(member)]
            if files and files[-1].offset_data + files[-1].size > path.stat().st_size:
                raise tarfile.ReadError("it ends within its last file")
            for _, group in groupby(files, lambda member: _key(member.name)):
                members = {PurePosixPath(member.name).suffix.lower(): member for member in group}
                image = next((members[suffix] for suffix in READABLE if suffix in members), None)
                if image is None:
                    continue
                texts = {suffix: _text(shard, members[suffix]) for suffix in (".json", ".txt") if suffix in members}
                about = _object(texts[".json"], members[".json"]) if ".json" in texts else {}
                name = str(about.get("file", PurePosixPath(image.name).name))
                yield Member(name, texts.get(".txt", "").strip(), image.offset_data, image.size)
    except (tarfile.TarError, ValueError) as error:
        raise ValueError(f"{path} is not a shard that can be read: {error}.") from error


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file; an error if it stands for one, but is stored in another way."""
    if PurePosixPath(member.name).suffix.lower() not in (*READABLE, ".json", ".txt"):
        return member.isfile() and not member.issparse()
    if member.issparse():
        raise ValueError(f"{printable(member.name)} is stored as a sparse file: write the shard without --sparse")
    if member.islnk() or member.issym():
        raise ValueError(
            f"{printable(member.name)} is a link to {printable(member.linkname)}: write the shard from the files "
            "themselves, as with --dereference --hard-dereference"
        )
    return member.isfile()


def _key(name: str) -> str:
    """Give what a sample's members have in common: folder, and name up to the first dot."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0] or path.name))


def _text(shard: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = shard.extractfile(member)
    assert content is not None  # only files come here
    try:
        return content.read().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(member.name)} is not UTF-8 text ({error})") from error


def _object(text: str, member: tarfile.TarInfo) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{printable(member.name)} is not JSON ({error})") from error
    if not isinstance(about, dict):
        raise ValueError(f"{printable(member.name)} does not hold a JSON object")
    return about
