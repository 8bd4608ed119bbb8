"""The script that measures a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_sr.image.decoding import ImageFileError
from tests.training.runs import script


def test_pictures_of_photos_with_the_same_names_have_different_names() -> None:
    paths = [Path(name) for name in ("a/p.png", "b/p.png", "b/p.jpg", "c/p_2.png", "d/q.png")]
    names = script("evaluate").picture_names(paths)
    assert [names[path] for path in paths] == ["p", "p_2", "p_3", "p_2_2", "q"]


def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ImageFileError, match=r"/bad\.png cannot be read: is not an image"):
        script("evaluate").degraded_pair(tmp_path / "bad.png", 0)
