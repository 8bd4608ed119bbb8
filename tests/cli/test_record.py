"""The record of the settings in a result, and results without metadata."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusers_sr.image.carriers import carry
from diffusers_sr.image.metadata import Metadata
from diffusers_sr.image.reader import read_photo
from diffusers_sr.image.record import with_record
from tests.cli.photos import SRGB, exif, pixels
from tests.components import tiny_image

DESCRIPTION = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
SETTINGS = "{https://github.com/diffusers-sr/diffusers-sr/ns/1.0/}settings"
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<r:Description r:about="uuid:7" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:source>a &amp; b</dc:source>'
    b"</r:Description></r:RDF></x:xmpmeta>"
)


def in_xmp(packet: bytes) -> list[str]:
    """Read the records in XMP data as any other program does."""
    return [element.text or "" for element in ElementTree.fromstring(packet).iter(SETTINGS)]


def records(path: str | Path) -> list[dict[str, Any]]:
    with Image.open(path) as image:
        image.load()
        if image.format == "PNG":
            texts = [image.info["diffusers-sr"]] if "diffusers-sr" in image.info else []
        else:
            texts = in_xmp(image.info["xmp"]) if "xmp" in image.info else []
    return [json.loads(text) for text in texts]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif"])
def test_every_format_has_a_record(run, model, suffix):
    tiny_image().save("photo.png")
    arguments = (
        "--seed",
        "7",
        "--prompt",
        "a <red> cät",
        "--steps",
        "2",
        "--tile-size",
        "64",
        "--guidance-scale",
        "1",
    )
    assert run("photo.png", "-o", f"big.{suffix}", *arguments) == 0
    (record,) = records(f"big.{suffix}")
    assert re.fullmatch(r"diffusers-sr( \d+\.\d+\.\d+\S*)?", record.pop("software"))
    # The tile size and the guidance are the model's own.
    assert record == {
        "model": Path(model).name,
        "seed": 7,
        "settings": {"upscale": 2.0, "prompt": "a <red> cät", "num_inference_steps": 2},
    }
    before = Path(f"big.{suffix}").read_bytes()
    assert run("photo.png", "-o", f"big.{suffix}", *arguments) == 0
    assert Path(f"big.{suffix}").read_bytes() == before


def test_a_bitmap_has_none_and_nothing_is_said(run, capsys):
    tiny_image().save("photo.png")
    assert run("photo.png", "-o", "big.bmp") == 0
    assert "not kept" not in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "avif"])
def test_the_photos_own_xmp_stays(run, suffix):
    tiny_image().save("photo.webp", xmp=XMP, lossless=True)
    assert run("photo.webp", "-o", f"big.{suffix}") == 0
    with Image.open(f"big.{suffix}") as image:
        packet = image.info["xmp"]
    root = ElementTree.fromstring(packet)
    assert root.findtext(".//{http://purl.org/dc/elements/1.1/}source") == "a & b"
    about = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}about"
    assert [element.get(about) for element in root.iter(DESCRIPTION)] == ["uuid:7", "uuid:7"]
    assert len(records(f"big.{suffix}")) == 1


def test_a_result_of_a_result_has_its_own_record_only(run):
    tiny_image().save("photo.png")
    path = "photo.png"
    for number, suffix in enumerate(("png", "png", "jpg", "jpg", "tif", "webp", "avif", "png"), 1):
        assert run(path, "-o", f"{number}.{suffix}", "--upscale", "1", "--seed", str(number)) == 0
        path = f"{number}.{suffix}"
        assert [record["seed"] for record in records(path)] == [number]


def test_no_paths_and_no_credentials(run, model, tmp_path, coser, monkeypatch):
    tiny_image().save("photo.png")
    Path("clients").mkdir()
    tiny_image().save("clients/reference.png")
    Path("models").mkdir()
    Path("models/mine").symlink_to(coser)
    arguments = ("--model", "models/mine", "--reference", "clients/reference.png")
    assert run("photo.png", "-o", "big.png", *arguments, "--prompt", "see https://me:pass@host/?token=abc") == 0
    (record,) = records("big.png")
    assert record["model"] == "mine"
    assert record["settings"]["reference"] == ["reference.png"]
    assert record["settings"]["prompt"] == "see https://***@host/?token=***"
    content = Path("big.png").read_bytes()
    assert not [word for word in ("clients", "models", str(tmp_path), "pass", "abc") if word.encode() in content]


def test_the_revision_of_a_model_in_the_hubs_cache(run, model, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--user--my-seesr" / "snapshots" / commit
    folder.parent.mkdir(parents=True)
    folder.symlink_to(model)
    tiny_image().save("photo.png")
    assert run("photo.png", "-o", "big.png", "--model", str(folder), "--dtype", "bfloat16") == 0
    (record,) = records("big.png")
    assert (record["model"], record["revision"]) == ("user/my-seesr", commit)
    assert record["settings"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["coser", "xpsr", "pasd", "one_step"])
def test_every_method(run, request, name):
    tiny_image().save("photo.png")
    prompts = ("--captioner", "measured") if name in ("xpsr", "pasd") else ()
    assert run("photo.png", "-o", "big.png", "--model", request.getfixturevalue(name), *prompts) == 0
    (record,) = records("big.png")
    assert record["settings"] == {"upscale": 2.0, **({"captioner": "measured"} if prompts else {})}


def test_xmp_that_leaves_no_room():
    """The photo's own data are kept rather than the record."""
    long = XMP.replace(b"a &amp; b", b"x" * (65533 - 29 - len(XMP) + 9))
    carried = carry(Metadata(xmp=long), "JPEG", (2, 2), "{}")
    assert long in carried.options["extra"]
    assert carried.lost == ["record of the settings"]
    assert with_record(b"<rdf:RDF/>", "{}") is None
    assert carry(Metadata(xmp=b"<rdf:RDF/>"), "WEBP", (2, 2), "{}").lost == ["record of the settings"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif", "bmp"])
def test_without_metadata(run, suffix, capsys):
    profile = SRGB if suffix != "bmp" else None  # which a BMP cannot hold
    tiny_image(16, 12).save("photo.jpg", exif=exif(), icc_profile=profile, dpi=(300, 300), xmp=XMP, comment="me")
    assert run("photo.jpg", "-o", f"big.{suffix}", "--strip-metadata") == 0
    assert "not kept" not in capsys.readouterr().err
    assert pixels(f"big.{suffix}").shape == (32, 24, 3)  # turned upright
    photo = read_photo(Path(f"big.{suffix}"))
    assert photo.metadata == Metadata(dpi=photo.metadata.dpi)
    assert photo.metadata.dpi is None or suffix in ("jpg", "bmp")  # these have a place for it that is never empty
    assert photo.metadata.dpi not in ((300, 300), (299.9994, 299.9994))
    assert photo.icc_profile == profile
    assert b"Maker" not in Path(f"big.{suffix}").read_bytes()


def test_the_meaning_of_colours_stays_without_metadata(run):
    """Without gamma and primaries the pixels would look different."""
    chunks = {b"gAMA": (50000).to_bytes(4), b"cICP": bytes((12, 13, 0, 1))}
    info = PngInfo()
    for kind, content in chunks.items():
        info.add(kind, content)
    info.add_text("Author", "me")
    tiny_image().save("photo.png", pnginfo=info)
    assert run("photo.png", "-o", "big.png", "--strip-metadata") == 0
    photo = read_photo(Path("big.png"))
    assert photo.metadata.colours == chunks
    assert photo.metadata.texts == []
