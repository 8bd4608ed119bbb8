"""`diffusers-sr testset`; how the pairs are made is tested in `tests/data/test_benchmark_pairs.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from diffusers_sr.cli.main import main
from diffusers_sr.cli.testset import DESCRIPTION, TEST_SETS
from tests.cli.photos import files


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save(path: str, side: int) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side)).save(path)


def test_make_a_test_set_and_check_it(capsys):
    save("Test_x4/test_HR/P_x1.png", 520)
    save("Test_x4/test_LR/P_x4.png", 130)
    assert main(["testset", "drealsr", "Test_x4", "-o", "out/drealsr"]) == 0
    assert files("out/drealsr") == ["test_HR/P_x1.png", "test_LR/P_x1.png"]
    assert capsys.readouterr().out == "Pairs: 1; the whole of DRealSR has 93\n"
    assert main(["testset", "drealsr", "out/drealsr"]) == 0
    assert capsys.readouterr().out == "Pairs: 1; the whole of DRealSR has 93\n"
    with pytest.raises(SystemExit):
        main(["testset", "drealsr", "Test_x4", "-o", "out"])
    assert "argument -o/--output: out exists: choose another name" in capsys.readouterr().err


def test_a_test_set_that_is_not_whole(capsys):
    save("set/gt/a.png", 512)
    save("set/gt/b.png", 512)
    save("set/lq/a.png", 128)
    assert main(["testset", "div2k-val", "set"]) == 1
    assert "set/gt/b.png: has no partner in set/lq" in capsys.readouterr().err
    save("set/lq/a.png", 256)
    save("set/lq/b.png", 256)
    assert main(["testset", "div2k-val", "set"]) == 1
    assert "set/gt: are 2 times as large as set/lq, not 4 times" in capsys.readouterr().err


def test_photos_need_an_output(capsys):
    save("photos/a.png", 512)
    with pytest.raises(SystemExit):
        main(["testset", "div2k-val", "photos"])
    assert "required: -o/--output" in capsys.readouterr().err
    assert main(["testset", "realsr", "photos", "-o", "out"]) == 1
    assert "photos: there is no photo whose names end in _HR" in capsys.readouterr().err
    assert files() == ["photos/a.png"]


def test_the_description_has_every_test_set():
    assert [line.split()[0] for line in DESCRIPTION.splitlines() if line.startswith("  ")] == list(TEST_SETS)
