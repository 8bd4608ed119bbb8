"""Photos whose names are not unique, not plain, or not those of the user's table."""

from __future__ import annotations

import io
import logging
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.lists import list_images
from diffusers_sr.data.names import PhotoFinder, unique_names
from diffusers_sr.data.pairs import pair_photos
from diffusers_sr.data.photos import PhotoFiles, read_image
from diffusers_sr.data.references import read_references, write_references
from diffusers_sr.data.shards import ShardPhotos, list_shards
from diffusers_sr.data.tags import photo_tags
from diffusers_sr.image.names import printable
from diffusers_sr.xpsr.prompts import ImagePrompts, high_level_prompts, write_official
from tests.training.runs import script

ODD = [
    "a\nb.png",
    "a\rb.png",
    "\x07bell.png",
    "line\u2028sep.png",
    "next\x85.png",
    "tab\t.png",
    'quote".png',
    "c,d.png",
]


def write(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Folders of classes, whose photos have the same names."""
    for number, name in enumerate(("cats/0001.png", "dogs/0001.png", "dogs/0002.png")):
        write(tmp_path / "pets" / name, number)
    return tmp_path / "pets"


def table(path: Path, rows: list[tuple[str, str]]) -> Path:
    quoted = [(name.replace('"', '""'), tags) for name, tags in rows]
    lines = "".join(f'"{name}","{tags}"\n' for name, tags in quoted)
    path.write_bytes(f"file,tags\n{lines}".encode())
    return path


def test_names_are_as_long_as_tells_them_apart() -> None:
    paths = [Path(name) for name in ("p/cats/1.png", "p/dogs/1.png", "p/2.png", "p/a/x/3.png", "p/b/x/3.png")]
    assert unique_names(paths) == ["cats/1.png", "dogs/1.png", "2.png", "a/x/3.png", "b/x/3.png"]
    assert unique_names([Path("1.png"), Path("a/1.png")]) == ["1.png", "a/1.png"]
    assert unique_names([Path("a/1.png"), Path("a/1.png")]) == ["a/1.png", "a/1.png"]
    assert unique_names([]) == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("cats/1.png", [0]),
        ("1.png", [0, 1]),
        ("photos/dogs/1.png", [1]),
        ("/home/me/photos/dogs/1.png", [1]),
        ("/other/dogs/1.png", []),
        ("./photos/dogs/1.png", [1]),
        ("dogs\\1.png", [1]),
        ("2.png", [2]),
        ("2", []),
        ("2.PNG", []),
        ("", []),
        ("/", []),
    ],
)
def test_a_photo_is_found_by_name_and_path(name: str, found: list[int]) -> None:
    paths = [Path(path) for path in ("photos/cats/1.png", "photos/dogs/1.png", "photos/2.png")]
    assert PhotoFinder(paths).find(name) == found


@pytest.mark.parametrize("form", ["{}", "pets/{}", "./pets/{}", "{absolute}/{}"])
def test_paths_in_a_table(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"cats/0001.png": "a cat", "dogs/0001.png": "a dog", "dogs/0002.png": "another"}
    path = table(tmp_path / "tags.csv", [(form.format(name, absolute=pets), tags) for name, tags in names.items()])
    photos = PhotoFiles(list_images("pets" if "absolute" not in form else pets))
    assert photo_tags(path, photos) == {"cats/0001.png": "a cat", "dogs/0001.png": "a dog", "0002.png": "another"}
    crops = PhotoCrops(photos, 32, tags=photo_tags(path, photos))
    colours = {tags: list_images(pets)[number] for number, tags in enumerate(names.values())}
    for index in range(6):
        sample = crops[index]
        image = read_image(colours[str(sample["tags"])]).float() / 255
        target = torch.as_tensor(sample["target"])
        patches = image.unfold(1, 32, 1).unfold(2, 32, 1)
        same = [(patches == each[:, None, None]).all(0).flatten(2).all(-1).any() for each in (target, target.flip(-1))]
        assert any(same)


FAULTS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "bare names of several": (
        [("0001.png", "a cat")],
        r", row 2: '0001.png' is the name of 2 photos, such as 'cats/0",
    ),
    "other tags": (
        [("0002.png", "a"), ("dogs/0002.png", "b")],
        r", row 3: 'dogs/0002.png' has other tags in an earlier",
    ),
    "no suffix": ([("dogs/0002", "a")], r", row 2: there is no photo 'dogs/0002', but '0002.png': write the name as"),
    "capitals": (
        [("cats/0001.png", "a"), ("0002.PNG", "b")],
        r", row 3: there is no photo '0002.PNG', but '0002.png'",
    ),
    "another suffix": ([("0002.jpg", "a")], r", row 2: there is no photo '0002.jpg', but '0002.png'"),
    "another folder": ([("birds/0002.png", "a")], r" has tags for none of the 3 photos: .* but 'birds/0002.png'"),
    "capital folder": ([("Dogs/0002.png", "a")], r", row 2: there is no photo 'Dogs/0002.png', but '0002.png'"),
    "other photos": (
        [("x.png", "a")],
        r" has tags for none of the 3 photos: the first photo is 'cats/0001.png', and no",
    ),
    "no rows": ([], r" has tags for none of the 3 photos"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_tables_that_do_not_fit_the_photos(pets: Path, tmp_path: Path, fault: str) -> None:
    rows, problem = FAULTS[fault]
    path = table(tmp_path / "tags.csv", rows)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}{problem}"):
        photo_tags(path, PhotoFiles(list_images(pets)))


def test_tables_that_fit_in_part(pets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "diffusers_sr.data.tags")
    photos = PhotoFiles(list_images(pets))
    path = table(tmp_path / "tags.csv", [("cats/0001.png", "a cat"), ("x.png", "x"), ("y.png", "y")])
    assert photo_tags(path, photos) == {"cats/0001.png": "a cat"}
    expected = f"2 rows of {path} name none of the photos, such as 'x.png'."
    assert [record.getMessage() for record in caplog.records] == [expected]
    caplog.clear()
    # Both rows are about the one photo, whose own suffix is there.
    whole = table(path, [(name, "a") for name in ("cats/0001.png", "dogs/0001.png", "0002.png")])
    assert len(photo_tags(whole, photos)) == 3
    assert not caplog.records
    with_other_suffix = table(
        path, [(name, "a") for name in ("cats/0001.png", "dogs/0001.png", "0002.png", "0002.jpg")]
    )
    assert len(photo_tags(with_other_suffix, photos)) == 3
    assert caplog.records[0].levelno == logging.WARNING
    assert photo_tags(None, photos) == {}


def test_prompts_and_pairs_of_photos_with_the_same_names(pets: Path, tmp_path: Path) -> None:
    paths = list_images(pets)
    for path in paths:
        write_official(tmp_path / "prompts", path.stem, ImagePrompts(path.stem, ""))
    with pytest.raises(ValueError, match=r"cats/0001\.png and .*dogs/0001\.png share one text file"):
        high_level_prompts(tmp_path / "prompts", paths)
    assert high_level_prompts(tmp_path / "prompts", paths[1:]) == {"0001.png": "0001", "0002.png": "0002"}
    with pytest.raises(ValueError, match=r"cats/0001\.png and .*dogs/0001\.png have the same stem"):
        pair_photos(paths, [tmp_path / "low" / "0001.png", tmp_path / "low" / "0002.png"], 4)


def prepare(*options: object) -> None:
    script("prepare").main([*map(str, options)])


def test_shards_of_photos_with_the_same_names(pets: Path, tmp_path: Path) -> None:
    path = table(tmp_path / "tags.csv", [("cats/0001.png", "a cat"), ("dogs/0001.png", "a dog")])
    options = ("--tags_file", path, "--allow_missing_text", "true")
    prepare("--train_data_dir", pets, *options, "--output_dir", tmp_path / "whole")
    shards = ShardPhotos(list_shards(tmp_path / "whole"))
    found = [(photo.name, photo.tags, photo.file) for photo in (shards[number] for number in range(3))]
    contents = [path.read_bytes() for path in list_images(pets)]
    names, tags = ("cats/0001.png", "dogs/0001.png", "0002.png"), ("a cat", "a dog", "")
    assert found == list(zip(names, tags, contents, strict=True))
    prepare("--train_data_dir", pets, "--crop_size", 40, "--output_dir", tmp_path / "crops")
    crops = ShardPhotos(list_shards(tmp_path / "crops")).names
    assert crops == ["cats/0001_000.png", "dogs/0001_000.png", "0002_000.png"]


def test_control_characters_in_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, name in enumerate(ODD):
        write(tmp_path / "photos" / name, number)
    (tmp_path / "photos" / "not\nread.png").write_bytes(b"no image")
    path = table(tmp_path / "tags.csv", [(name, f"photo {number}") for number, name in enumerate(ODD)])
    photos = PhotoFiles(list_images(tmp_path / "photos"))
    assert photo_tags(path, photos) == {name: f"photo {number}" for number, name in enumerate(ODD)}
    prepare("--train_data_dir", tmp_path / "photos", "--tags_file", path, "--output_dir", tmp_path / "shards")
    (log,) = (tmp_path / "shards").glob("*.skipped.log")
    assert log.read_text().startswith(r"not\nread.png cannot be read: ") and log.read_text().count("\n") == 1
    shards = ShardPhotos(list_shards(tmp_path / "shards"))
    assert {shards[number].name: shards[number].tags for number in range(len(shards))} == photo_tags(path, photos)
    references = {name: {other: 0.5 for other in ODD if other != name} for name in ODD}
    write_references(tmp_path / "references.csv", references)
    assert read_references(tmp_path / "references.csv") == references
    caplog.clear()
    crops = PhotoCrops(photos, 32)
    for index in range(len(photos)):
        assert crops[index]
    skipped = [record.getMessage() for record in caplog.records]
    assert len(skipped) == 1 and skipped[0].startswith(r"Skipped: not\nread.png cannot be read")


@pytest.mark.skipif(os.name != "posix", reason="names are text there")
def test_names_that_are_not_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    write(tmp_path / "photos" / "plain.png")
    os.rename(tmp_path / "photos" / "plain.png", tmp_path / "photos" / name)
    (tmp_path / "photos" / os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    prepare("--train_data_dir", tmp_path / "photos", "--output_dir", tmp_path / "shards")
    assert ShardPhotos(list_shards(tmp_path / "shards")).names == [name]
    (log,) = (tmp_path / "shards").glob("*.skipped.log")
    assert log.read_text().startswith(r"\udcff.png cannot be read")
    with pytest.raises(ValueError, match=r"caf\\udce9\.png is not UTF-8 text"):
        write_references(tmp_path / "references.csv", {name: {"a.png": 1.0}})


def test_a_name_is_shown_on_one_line() -> None:
    assert printable("a\nb\u2028\x1b[2J é 猫.png") == r"a\nb\u2028\x1b[2J é 猫.png"
    assert printable(Path("a/b c.png")) == "a/b c.png"


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def sparse_member(name: str, content: bytes) -> bytes:
    """A member as GNU tar writes it with --sparse: a map of the parts that hold data, and the parts."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (4096, len(content))
    header[483:495] = b"%011o\0" % (4096 + len(content))
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


def pax_sparse_member(name: str, content: bytes) -> bytes:
    member = tarfile.TarInfo(f"GNUSparseFile.0/{name}")
    member.size = len(content)
    size = 4096 + len(content)
    member.pax_headers = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": name, "GNU.sparse.size": str(size),
        "GNU.sparse.numblocks": "1", "GNU.sparse.map": f"4096,{len(content)}",
    }  # fmt: skip
    return member.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


def link(kind: bytes) -> Callable[[str, bytes], bytes]:
    def member(name: str, content: bytes) -> bytes:
        linked = tarfile.TarInfo(name)
        linked.type, linked.linkname = kind, "0.png"
        return linked.tobuf()

    return member


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (sparse_member, r"1\.png is stored as a sparse file: write the shard without --sparse"),
        (pax_sparse_member, r"1\.png is stored as a sparse file"),
        (link(tarfile.LNKTYPE), r"1\.png is a link to 0\.png: write the shard from the files themselves"),
        (link(tarfile.SYMTYPE), r"1\.png is a link to 0\.png"),
    ],
)
def test_members_that_are_not_stored_as_they_are(
    tmp_path: Path, member: Callable[[str, bytes], bytes], problem: str
) -> None:
    first = tarfile.TarInfo("0.png")
    first.size = len(png(0))
    start = first.tobuf() + png(0) + bytes(-len(png(0)) % 512)
    path = tmp_path / "0.tar"
    path.write_bytes(start + member("1.png", png(1)) + bytes(1024))
    with pytest.raises(ValueError, match=rf"{path} is not a shard that can be read: {problem}"):
        ShardPhotos([path])
    path.write_bytes(start + member("notes.md", b"notes") + bytes(1024))
    assert ShardPhotos([path]).names == ["0.png"]
