"""The one list of suffixes, and who uses it."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from diffusers_sr.cli.main import main
from diffusers_sr.data.lists import list_images
from diffusers_sr.data.shards import ShardPhotos
from diffusers_sr.image.formats import READABLE, SUFFIX_OF, WRITABLE, images_in

SUFFIXES = (
    ".png .jpg .jpeg .webp .bmp .tif .tiff .jfif .jpe .avif .gif .ppm .pgm .pbm .pnm .tga .jp2 .j2k .jpf .jpx .heic "
    ".heif .hif .mpo .apng"
)


def test_what_is_read_and_written() -> None:
    assert " ".join(READABLE) == SUFFIXES
    assert {*WRITABLE} == {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".jfif", ".jpe", ".avif"}
    assert SUFFIX_OF == {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


def test_users_and_trainers_find_the_same_files(tmp_path: Path) -> None:
    for suffix in (*SUFFIXES.split(), ".JPG", ".txt", ".npy"):
        (tmp_path / f"photo{suffix}").touch()
    expected = sorted(f"photo{suffix}" for suffix in (*SUFFIXES.split(), ".JPG"))
    assert [path.name for path in images_in(tmp_path)] == expected
    assert [path.name for path in list_images(tmp_path)] == expected


def test_errors_name_all_suffixes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=SUFFIXES.replace(" ", ", ")):
        list_images(tmp_path)


def test_the_commands_help_names_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["upscale", "--help"])
    text = capsys.readouterr().out
    assert [suffix for suffix in SUFFIX_OF.values() if suffix not in text] == []


def test_shards_take_every_suffix_and_prefer_the_first(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "GIF")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.gif", "a.webp", "a.jpg", "b.gif", "c.jfif", "d.npy"):
            member = tarfile.TarInfo(name)
            member.size = len(file.getvalue())
            tar.addfile(member, io.BytesIO(file.getvalue()))
    assert ShardPhotos([tmp_path / "0.tar"]).names == ["a.jpg", "b.gif", "c.jfif"]
