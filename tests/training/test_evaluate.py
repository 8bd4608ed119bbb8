"""training/evaluate.py: what is measured, in which rows, and what happens to photos that cannot be measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from diffusers_sr import SeeSRPipeline
from diffusers_sr.image.decoding import ImageFileError
from tests.components import components, tiny_image
from tests.training.runs import script

CALL = {"num_inference_steps": 1, "guidance_scale": 1.0, "process_size": 16}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    SeeSRPipeline(**components("seesr"), call_defaults=CALL).save_pretrained(folder)
    return str(folder)


def run(*options: object) -> None:
    script("evaluate").main([*map(str, options)])


def test_photos_that_cannot_be_measured_are_named_and_the_others_are(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, side in (("a.png", 48), ("c.png", 31), ("d.png", 1), ("e.png", 32)):
        tiny_image(side, 40).save(folder / name)
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:200])
    names = ", ".join(str(folder / name) for name in ("b.png", "c.png", "d.png"))
    with pytest.raises(ImageFileError, match=re.escape(f"3 of 5 photos could not be measured: {names}")):
        run("--data", folder, "--model", model, "--pictures", tmp_path / "pictures", "--zoom", 2)
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith(str(folder))]
    assert [line.split(": ", 1)[0] for line in lines] == [str(folder / name) for name in ("b.png", "c.png", "d.png")]
    assert lines[1].endswith(": is 31x40 pixels: to measure it, each side has to have at least 32")
    assert printed.out.startswith("| heavy: 2 photos | ")
    pictures = tmp_path / "pictures"
    results = [f"{name}_{Path(model).name}.jpg" for name in "ae"]
    assert {path.name for path in pictures.iterdir()} == {"a_input.png", "e_input.png", *results}
    sizes = [Image.open(pictures / name).size for name in ("e_input.png", results[1])]
    assert sizes == [(8, 10), (4 * 64 + 3 * 8, 80)]


def test_a_folder_of_which_no_photo_can_be_measured(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageFileError, match="1 of 1 photos could not be measured"):
        run("--data", tmp_path, "--model", model)
    printed = capsys.readouterr()
    assert f"{tmp_path / 'a.png'}: cannot be read: is not an image that can be read\n" in printed.err
    assert printed.out == ""


def test_sets_and_rows(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs, originals and damaged photos; a model, another one by its arguments, and another program's pictures."""
    for name, side in (("real/lr", 12), ("real/hr", 48), ("clean", 48), ("photos", 48)):
        (tmp_path / name).mkdir(parents=True)
        tiny_image(side, side).save(tmp_path / name / "a.png")
    paths = [tmp_path / name for name in ("real", "clean")]
    sets = ("--data", tmp_path / "photos", "--degradation", "mild", "--pairs", *paths)
    run(*sets, "--model", "--inputs", tmp_path / "inputs")
    for name in ("real", "clean", "mild"):
        (tmp_path / "other" / name).mkdir(parents=True)
        Image.open(tmp_path / "inputs" / name / "a.png").resize((48, 48)).save(tmp_path / "other" / name / "a.jpg")
    capsys.readouterr()

    other = f"{model} color_fix=null"
    rows = ("--model", model, other, "--results", f"resized={tmp_path / 'other'}", "--baseline", model)
    run(*sets, *rows, "--json", tmp_path / "table.json")
    first = capsys.readouterr()
    printed = [line for line in first.out.splitlines() if line]
    names = ["bicubic", "Lanczos + unsharp mask", "resized", model, other]
    assert [line.split("|")[1].strip() for line in printed] == [
        each
        for name in ("real", "clean", "mild")
        for each in (f"{name}: 1 photos", "---", *names, f"less {model}", "---", *(n for n in names if n != model))
    ]
    measured = json.loads((tmp_path / "table.json").read_text())
    assert list(measured["sets"]["clean"]) == names
    haarpsi = {name: row["a"]["HaarPSI ↑"] for name, row in measured["sets"]["clean"].items()}
    assert haarpsi["resized"] == pytest.approx(haarpsi["bicubic"], abs=0.05)
    assert len({*haarpsi.values()}) == 5, "each row is another picture"
    assert measured["megabytes"][model] == measured["megabytes"][other] > 0

    run(*sets, *rows[:1], *rows[2:], "--baseline", other, "--json", tmp_path / "table.json", "--resume")
    second = capsys.readouterr()
    assert "Loading" not in second.err, "everything has been measured"
    assert f"less {other}" in second.out
    with pytest.raises(ValueError, match="was measured with"):
        run(*sets, *rows, "--json", tmp_path / "table.json", "--resume", "--max-size", "40")
    with pytest.raises(ImageFileError, match="real has to hold one picture of the name a, and has 0"):
        run("--pairs", tmp_path / "real", "--results", f"empty={tmp_path}")


def test_options_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        ((), "give photographs to measure: --data, --pairs, or both"),
        (("--data", "x", "--resume"), "--resume needs the file --json"),
        (("--data", "x", "--model", "a", "a"), "two rows have the same name"),
        (
            ("--data", "x", "--baseline", "coser-small"),
            "expected one of bicubic, Lanczos + unsharp mask, one-step-small",
        ),
    ):
        with pytest.raises(SystemExit):
            run(*options)
        assert message in capsys.readouterr().err
    tiny_image(48, 48).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="there is another set of the name"):
        run("--pairs", tmp_path, tmp_path)
