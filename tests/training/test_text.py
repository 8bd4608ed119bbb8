"""The texts that a stage trains with: that none is missing unnoticed, and that no stage takes any for nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffusers_sr.training.arguments import parse_arguments
from diffusers_sr.training.photos import degraded_crops, photo_crops
from tests.training.runs import script, write_noise_photos


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_noise_photos(tmp_path / "photos", 3, 32)
    return tmp_path / "photos"


def arguments(stage: str, kind: str, *words: object) -> Any:
    required = {"seesr": ["--tagger", "x"], "xpsr": [], "cognitive_encoder": [], "scedit": [], "one_step": []}[stage]
    given = ["--output_dir", "unused", "--resolution", "32", *required, *map(str, words)]
    return parse_arguments(getattr(script(f"train_{stage}"), kind), given)


def table(path: Path, *rows: str) -> Path:
    path.write_text("".join(f"{row}\n" for row in ("file,tags", *rows)))
    return path


TEXT_STAGES = {
    "seesr": "SeeSRArguments",
    "xpsr": "XPSRArguments",
    "cognitive_encoder": "CognitiveEncoderArguments",
}


@pytest.mark.parametrize("stage", TEXT_STAGES)
def test_a_stage_with_texts_does_not_train_without_them(
    photos: Path, tmp_path: Path, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    none = ("--train_data_dir", photos)
    if stage == "cognitive_encoder":  # which learns nothing else
        with pytest.raises(ValueError, match=r"^3 of the 3 photos have no tags or captions, such as '0.png', '1.png'"):
            degraded_crops(arguments(stage, TEXT_STAGES[stage], *none))
    else:
        degraded_crops(arguments(stage, TEXT_STAGES[stage], *none))
        assert "0 of the 3 photos (0.00%) have tags or captions, '0.png', '1.png' have none." in caplog.text
    some = (*none, "--tags_file", table(tmp_path / "tags.csv", "0.png,sky", "1.png,"))
    with pytest.raises(ValueError, match=r"^2 of the 3 .*such as '1.png', '2.png'.*--allow_missing_text true"):
        degraded_crops(arguments(stage, TEXT_STAGES[stage], *some))
    allowed = degraded_crops(arguments(stage, TEXT_STAGES[stage], *some, "--allow_missing_text", "true"))
    assert {allowed[index]["tags"] for index in range(3)} == {"sky", ""}


def test_shards_without_texts_are_noticed_and_take_those_of_a_table(photos: Path, tmp_path: Path) -> None:
    script("prepare").main(["--train_data_dir", str(photos), "--output_dir", str(tmp_path / "shards")])
    shards = ("--train_shards_path_or_url", tmp_path / "shards")
    with pytest.raises(ValueError, match=r"^3 of the 3 photos have no tags"):
        degraded_crops(arguments("seesr", "SeeSRArguments", *shards))
    tags = table(tmp_path / "tags.csv", *(f"{number}.png,tag {number}" for number in range(3)))
    crops = degraded_crops(arguments("seesr", "SeeSRArguments", *shards, "--tags_file", tags))
    assert {crops[index]["tags"] for index in range(3)} == {"tag 0", "tag 1", "tag 2"}


def test_the_share_is_said_at_the_start(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tags = table(tmp_path / "tags.csv", *(f"{number}.png,sky" for number in range(3)))
    degraded_crops(arguments("seesr", "SeeSRArguments", "--train_data_dir", photos, "--tags_file", tags))
    assert "3 of the 3 photos (100.00%) have tags or captions." in caplog.messages
    words = ("--train_data_dir", photos, "--tags_file", tags, "--allow_missing_text", "true")
    table(tags, "0.png,sky")
    degraded_crops(arguments("seesr", "SeeSRArguments", *words))
    assert "1 of the 3 photos (33.33%) have tags or captions, '1.png', '2.png' have none." in caplog.messages


def test_a_photo_that_cannot_be_read_needs_no_text(photos: Path, tmp_path: Path) -> None:
    (photos / "1.png").write_bytes(b"no image")
    tags = table(tmp_path / "tags.csv", "0.png,sky", "2.png,sea")
    crops = degraded_crops(arguments("seesr", "SeeSRArguments", "--train_data_dir", photos, "--tags_file", tags))
    assert {crops[index]["tags"] for index in range(3)} == {"sky", "sea"}


def test_a_stage_without_texts_takes_none(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = table(tmp_path / "tags.csv", "0.png,sky")
    with pytest.raises(SystemExit):
        arguments("scedit", "SCEditArguments", "--train_data_dir", photos, "--tags_file", tags)
    assert "unrecognized arguments: --tags_file" in capsys.readouterr().err
    assert degraded_crops(arguments("scedit", "SCEditArguments", "--train_data_dir", photos))[0]["tags"] == ""
    with pytest.raises(ValueError, match="--caption_column text: this stage trains without text"):
        photo_crops(arguments("scedit", "SCEditArguments", "--dataset_name", "x", "--caption_column", "text"))
    unused = ("--train_data_dir", photos, "--null_text_ratio", "1")
    assert degraded_crops(arguments("one_step", "OneStepUNetArguments", *unused))[0]["tags"] == ""
    with pytest.raises(ValueError, match=r"--tags_file .*tags.csv: .*--null_text_ratio 1 leaves all texts out"):
        degraded_crops(arguments("one_step", "OneStepUNetArguments", *unused, "--tags_file", tags))


def test_photos_are_found_by_their_path_from_the_data_folder(photos: Path, tmp_path: Path) -> None:
    """Here the name of one is the end of the other's path, so that no end of a path tells them apart."""
    (photos / "more").mkdir()
    for name in ("0.png", "more/0.png", "more/3.png"):
        Image.new("RGB", (32, 32)).save(photos / name)
    rows = [("0.png", "zero"), ("1.png", "one"), ("2.png", "two"), ("more/0.png", "more"), ("3.png", "three")]
    tags = table(tmp_path / "tags.csv", *map(",".join, rows))
    crops = degraded_crops(arguments("seesr", "SeeSRArguments", "--train_data_dir", photos, "--tags_file", tags))
    assert sorted(str(crops[index]["tags"]) for index in range(5)) == ["more", "one", "three", "two", "zero"]
