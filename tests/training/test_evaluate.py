"""training/evaluate.py: what is measured, and what happens to photos that cannot be."""

from __future__ import annotations

import re
import sys
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


def run(monkeypatch: pytest.MonkeyPatch, problem: str, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, options)])
    with pytest.raises(ImageFileError, match=re.escape(problem)):
        script("evaluate").main()


def test_photos_that_cannot_be_measured_are_named_and_the_others_are(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, side in (("a.png", 32), ("c.png", 11), ("d.png", 1), ("e.png", 12)):
        tiny_image(side, 32).save(folder / name)
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:200])
    names = ", ".join(str(folder / name) for name in ("b.png", "c.png", "d.png"))
    problem = f"3 of 5 photos could not be measured: {names}"
    run(monkeypatch, problem, "--data", folder, "--model", model, "--pictures", tmp_path / "pictures")
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith(str(folder))]
    assert [line.split(": ", 1)[0] for line in lines] == [str(folder / name) for name in ("b.png", "c.png", "d.png")]
    assert lines[1].endswith(": is 11x32 pixels: to measure it, each side has to have at least 12")
    assert printed.out.startswith("| 2 photos | ")
    assert sorted(path.name for path in (tmp_path / "pictures").glob("*_input.png")) == ["a_input.png", "e_input.png"]
    with Image.open(tmp_path / "pictures" / "e_input.png") as image:
        assert image.size == (3, 8)


def test_a_folder_of_which_no_photo_can_be_measured(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    run(monkeypatch, "1 of 1 photos could not be measured", "--data", tmp_path, "--model", model)
    printed = capsys.readouterr()
    assert f"{tmp_path / 'a.png'}: cannot be read: is not an image that can be read\n" in printed.err
    assert printed.out == ""


def test_pictures_of_photos_with_the_same_names_have_different_names() -> None:
    paths = [Path(name) for name in ("a/p.png", "b/p.png", "b/p.jpg", "c/p_2.png", "d/q.png")]
    names = script("evaluate").picture_names(paths)
    assert [names[path] for path in paths] == ["p", "p_2", "p_3", "p_2_2", "q"]
