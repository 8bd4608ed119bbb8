"""The table of tags or captions that a script writes for training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from diffusers_sr.data.lists import list_images
from diffusers_sr.data.photos import PhotoFiles, read_image
from diffusers_sr.data.tables import read_rows
from diffusers_sr.data.tags import photo_tags
from diffusers_sr.training import descriptions
from tests.components import tiny_text_encoder, tiny_tokenizer
from tests.seesr.components import tiny_tagger
from tests.training.runs import script, write_noise_photos
from tests.xpsr.test_captioner import build


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        write_noise_photos(tmp_path / "photos" / name, 2, 40)
    return tmp_path / "photos"


def make_tags(photos: Path, table: Path, *options: object) -> None:
    words = ("--train_data_dir", photos, "--output", table, "--batch_size", 2, *options)
    script("make_tags").main([*map(str, words)])


def test_each_photo_is_tagged_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tagger = tiny_tagger()
    tagger.save_pretrained(tmp_path / "tagger")
    (photos / "b" / "0.png").write_bytes(b"no image")
    table = tmp_path / "new" / "tags.csv"
    options = ("--tagger", tmp_path / "tagger")
    load_tagger = descriptions.load_tagger
    described: list[str] = []

    def interrupted(folder: str, device: torch.device) -> descriptions.Describe:
        describe = load_tagger(folder, device)

        def once(names: Any, images: Any) -> Any:
            if described:
                raise KeyboardInterrupt
            described.extend(names)
            return describe(names, images)

        return once

    module = script("make_tags")
    words = ["--train_data_dir", str(photos), "--output", str(table), "--batch_size", "2", *map(str, options)]
    monkeypatch.setattr(module, "load_tagger", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.main(words)
    assert described == ["a/0.png", "a/1.png"] and not table.exists()
    make_tags(photos, table, *options)
    rows = [(row["file"], row["tags"]) for _, row in read_rows(table, ("file", "tags"))]
    assert [name for name, _ in rows] == ["a/0.png", "a/1.png", "b/1.png"]
    for name, tags in rows:
        with torch.no_grad():
            logits = tagger(tagger.preprocess(read_image(photos / name)[None] / 255)).logits
        assert tags == ", ".join(tagger.tags(logits)[0])
    files = PhotoFiles(list_images(photos))
    assert photo_tags(table, files, [photos]) == {files.names[n]: rows[row][1] for n, row in ((0, 0), (1, 1), (3, 2))}
    # A new photo is described, and no other one again.
    write_noise_photos(photos / "b", 1, 40)
    before = table.read_text()
    caplog.set_level(logging.INFO)
    make_tags(photos, table, *options)
    assert "3 of 4 photos are in" in caplog.text and "has rows of 4 of the 4 photos" in caplog.text
    monkeypatch.setattr(descriptions, "load_pretrained", None)  # nothing is loaded for nothing
    make_tags(photos, table, *options)
    assert {*before.splitlines()} < {*table.read_text().splitlines()}


def test_captions_are_weighted_by_clip_and_begin_with_the_class(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer()
    text = tiny_text_encoder(tokenizer).config.to_dict()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    captioner = build("idefics3")
    module = script("make_tags")
    monkeypatch.setattr(module, "load_captioner", lambda *_: captioner)
    (tmp_path / "classes.csv").write_text("folder,class\na,tabby cat\n")
    table = tmp_path / "captions.csv"
    words = [
        *("--train_data_dir", photos, "--output", table, "--captioner", "model", "--instructions", "What?", "Who?"),
        *("--clip", tmp_path / "clip", "--min_clip_score", "0", "--max_train_samples", "3"),
        *("--classes_file", tmp_path / "classes.csv"),
    ]
    module.main([*map(str, words)])
    rows = [(row["file"], row["tags"], float(row["weight"])) for _, row in read_rows(table, ("file", "weight"))]
    first = [(tags, weight) for name, tags, weight in rows if name == "a/0.png"]
    assert first[0] == ("a photo of tabby cat", 0.5)
    assert all(tags.startswith("a photo of tabby cat, ") and 0 < weight < 1 for tags, weight in first[1:])
    assert {name for name, _, _ in rows} == {"a/0.png", "a/1.png", "b/0.png"}
    assert not any(tags.startswith("a photo of") for name, tags, _ in rows if name == "b/0.png")


def test_captions_below_the_threshold_are_left_out() -> None:
    captions, scores = ["a dog", "an animal", "grass"], [0.30, 0.28, 0.21]
    weighted = script("make_tags").weighted_captions
    assert weighted(captions, scores, 0.28, "tench", 0.5) == [
        ("a photo of tench", "0.5000"),
        ("a photo of tench, a dog", "0.3000"),
        ("a photo of tench, an animal", "0.2800"),
    ]
    assert weighted(captions, scores, 0.4, "tench", 0.5) == [("a photo of tench", "0.5000")]
    assert weighted(captions, scores, 0.4, None, 0.5) == [("a dog", "0.3000")]
    assert weighted([], [], 0.4, None, 0.5) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of --tagger and --captioner"),
        (["--tagger", "x", "--captioner", "y"], "one of --tagger and --captioner"),
        (["--tagger", "x", "--clip", "y"], "give --captioner instead of --tagger"),
        (["--captioner", "x", "--instructions", "a?", "b?"], "give --clip"),
    ],
)
def test_options_that_do_not_go_together(photos: Path, tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_tags(photos, tmp_path / "tags.csv", *options)
