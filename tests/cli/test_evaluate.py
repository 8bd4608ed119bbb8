"""`diffusers-sr evaluate`, from folders to tables; the measures and the tables are tested on their own."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusers_sr.cli.main import main
from tests.cli.photos import files


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pyiqa", None)


def grey(path: str, level: int, size: tuple[int, int] = (16, 12)) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)


def test_a_table_a_file_of_each_picture_and_metadata(capsys):
    for name, level in {"a": 102, "b": 153}.items():
        grey(f"photos/{name}.png", 102)
        grey(f"results/{name}.jpg", level)
    options = ["--csv", "each.csv", "--json", "card.json", "--name", "mine"]
    assert main(["evaluate", "results", "photos", *options]) == 0
    output = capsys.readouterr().out
    # 20 log10(255 / (219 / 5)) = 15.301 of b, 80 of a.
    assert "| mine | 47.6507 | 0." in output
    assert "2 pictures; PSNR and SSIM: Y of YCbCr, 16 to 235, crop 0\nnot measured: LPIPS, DISTS, FID" in output
    rows = list(csv.DictReader(Path("each.csv").read_text().splitlines()))
    assert [(row["results"], row["picture"]) for row in rows] == [("mine", "a"), ("mine", "b")]
    assert float(rows[1]["PSNR"]) == pytest.approx(15.301, abs=1e-3)
    index = json.loads(Path("card.json").read_text())["model-index"]
    assert index[0]["name"] == "mine"
    assert index[0]["results"][0]["dataset"] == {"name": "photos", "type": "photos"}
    assert index[0]["results"][0]["metrics"][0]["value"] == pytest.approx(47.6507, abs=1e-4)


def test_rows_for_latex_and_another_folder_to_compare_with(capsys):
    for name in ("a", "b", "c"):
        grey(f"photos/{name}.png", 102)
        grey(f"mine/{name}.png", 112)
        grey(f"theirs/{name}.png", 122)
    assert main(["evaluate", "mine", "photos", "--against", "theirs", "--latex"]) == 0
    output = capsys.readouterr().out
    # Differences of 10 and of 20 levels: 20 log10(255² / 2190) = 29.4527, and 20 log10(2) less.
    assert "\nmine & 29.4527 & " in output
    assert "\ntheirs & 23.4321 & " in output
    assert "| PSNR ↑ | +6.0206 | +6.0206 to +6.0206 | better |" in output


def test_all_that_is_wrong_is_said_before_anything_is_measured(capsys):
    grey("photos/a.png", 0)
    grey("photos/b.png", 0)
    grey("mine/a.png", 0, (16, 13))
    grey("theirs/x.png", 0)
    assert main(["evaluate", "mine", "photos", "--against", "theirs", "--csv", "each.csv"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "diffusers-sr: 5 problems were found, to be mended first:\n"
        "  photos/b.png: has no partner in mine\n"
        "  mine/a.png: is 16x13 pixels, its original 16x12\n"
        "  photos/a.png: has no partner in theirs\n"
        "  photos/b.png: has no partner in theirs\n"
        "  theirs/x.png: has no original in photos\n"
    )
    assert not Path("each.csv").exists()


def test_a_protocol_measures_on_its_test_sets_only(capsys):
    grey("photos/a.png", 0)
    grey("mine/a.png", 0)
    assert main(["evaluate", "mine", "photos", "--protocol", "seesr"]) == 1
    error = capsys.readouterr().err
    assert "There are 1 originals, of 16x12 pixels; the protocol seesr measures on RealSR (100 of 512x512" in error
    assert main(["evaluate", "mine", "photos", "--protocol", "faithdiff"]) == 0
    assert "PSNR: RGB, crop 0; SSIM: luma, 0 to 255, crop 0" in capsys.readouterr().out


def test_a_model_makes_the_results_of_a_test_set(model, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    for name in ("a", "b"):
        Path("set/test_LR").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[::2, ::2]).save(f"set/test_LR/{name}.png")
        Path("set/test_HR").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(f"set/test_HR/{name}.png")
    command = ["evaluate", "results", "set", "--model", model, "--device", "cpu"]
    assert main([*command, "--json", "card.json"]) == 0
    assert f"| {Path(model).name} | " in capsys.readouterr().out
    assert files("results") == ["a.png", "b.png"]
    with Image.open("results/a.png") as result:
        assert result.size == (16, 12)
    assert json.loads(Path("card.json").read_text())["model-index"][0]["results"][0]["dataset"]["name"] == "set"
    with pytest.raises(SystemExit):
        main(command)
    assert "there are pictures in results: choose another folder, or keep them" in capsys.readouterr().err
    Path("results/b.png").write_bytes(Path("set/test_HR/b.png").read_bytes())
    assert main([*command, "--skip-existing", "--csv", "each.csv"]) == 0
    assert float(list(csv.DictReader(Path("each.csv").read_text().splitlines()))[1]["PSNR"]) == pytest.approx(80)


def test_inputs_that_do_not_match_their_originals(capsys):
    grey("photos/a.png", 0)
    grey("inputs/a.png", 0, (8, 7))
    command = ["evaluate", "results", "photos", "--model", "none"]
    assert main([*command, "--inputs", "inputs"]) == 1
    assert "inputs/a.png: is 8x7 pixels, its original 16x12, of other proportions" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(command)
    assert "argument --inputs: required, as photos is not a test set" in capsys.readouterr().err
