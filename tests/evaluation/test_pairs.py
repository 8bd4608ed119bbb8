from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_sr.evaluation.pairs import input_pairs, originals_in, read_picture, result_pairs, title_of
from diffusers_sr.image.pairs import PairsError


def save(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB", color: int | tuple[int, int] = 0) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, size, color).save(path)


def test_all_that_is_wrong_is_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c", "d", "e"):
        save(Path("o", f"{name}.png"))
    save(Path("r/a.png"))
    save(Path("r/b.png"), (6, 5))
    save(Path("r/d.png"))
    save(Path("r/e.png"))
    Path("r/d.png").write_bytes(Path("r/d.png").read_bytes()[:30])
    save(Path("r/e.bmp"))
    save(Path("r/x.png"))
    with pytest.raises(PairsError) as error:
        result_pairs(Path("r"), Path("o"))
    *others, damaged = sorted(error.value.problems, key=lambda text: "r/d.png" in text)
    assert others == [
        "r/e.bmp: has the same name as e.png",
        "o/c.png: has no partner in r",
        "r/x.png: has no original in o",
        "r/b.png: is 6x5 pixels, its original 6x4",
    ]
    assert damaged.startswith("r/d.png: ")
    assert str(error.value).startswith("5 problems were found, to be mended first:\n  r/e.bmp: ")


@pytest.mark.parametrize("originals", ["test_HR", "gt", "hr"])
def test_originals_in_a_test_set(tmp_path, originals):
    assert originals_in(tmp_path) == tmp_path
    folder = tmp_path / "RealSRVal_crop128"
    (folder / originals).mkdir(parents=True)
    assert originals_in(folder) == folder / originals
    assert title_of(folder / originals) == title_of(folder) == "RealSRVal_crop128"


def test_inputs_have_one_factor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c", "d"):
        save(Path("o", f"{name}.png"), (12, 8))
    for name, size in {"a": (8, 12), "b": (3, 2), "c": (3, 2), "d": (6, 4)}.items():
        save(Path("i", f"{name}.png"), size)
    with pytest.raises(PairsError) as error:
        input_pairs(Path("i"), Path("o"))
    assert error.value.problems == [
        "i/a.png: is 8x12 pixels, its original 12x8, of other proportions",
        "i/d.png: is 6x4 pixels, its original 12x8: 2 times, most are 4 times",
    ]
    save(Path("i/a.png"), (3, 2))
    save(Path("i/d.png"), (3, 2))
    pairs, factor = input_pairs(Path("i"), Path("o"))
    assert [pair.name for pair in pairs] == ["a", "b", "c", "d"]
    assert factor == Fraction(4)


def test_pictures_of_all_kinds(tmp_path):
    path = tmp_path / "p.png"
    save(path, (2, 1), "LA", (51, 0))  # transparent: white
    assert read_picture(path).tolist() == [[[[1.0, 1.0]]] * 3]
    save(path, (2, 1), "L", 51)
    torch.testing.assert_close(read_picture(path), torch.full((1, 3, 1, 2), 0.2))
