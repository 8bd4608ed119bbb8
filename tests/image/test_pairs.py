from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from diffusers_sr.image.pairs import PairsError, match, parts_of


def save(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (1, 1)).save(path)


def test_a_picture_has_the_name_of_its_original_and_any_suffix(tmp_path: Path) -> None:
    pictures, originals = tmp_path / "pictures", tmp_path / "originals"
    save(originals / "b.png", originals / "a.jpg", pictures / "a.png", pictures / "b.tif", pictures / "c.png")
    (originals / "d.txt").touch()
    pairs, problems = match(pictures, originals)
    assert pairs == [("a", pictures / "a.png", originals / "a.jpg"), ("b", pictures / "b.tif", originals / "b.png")]
    assert problems == [f"{pictures / 'c.png'}: has no original in {originals}"]


def test_empty_and_missing_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert match(Path("empty"), Path("empty")) == ([], ["empty: there is no image in this folder"] * 2)
    with pytest.raises(PairsError, match="nowhere: this folder cannot be listed: No such file"):
        match(Path("nowhere"), Path("empty"))


@pytest.mark.parametrize(("inputs", "originals"), [("test_LR", "test_HR"), ("lq", "gt"), ("lr", "hr")])
def test_the_folder_of_originals_makes_a_test_set(tmp_path: Path, inputs: str, originals: str) -> None:
    (tmp_path / inputs).mkdir()
    assert parts_of(tmp_path) is None
    (tmp_path / originals).mkdir()
    assert parts_of(tmp_path) == (tmp_path / inputs, tmp_path / originals)
