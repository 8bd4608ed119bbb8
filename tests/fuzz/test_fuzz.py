"""A short run of the fuzz command, and the command's own soundness."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.fuzz import run as fuzz
from tests.fuzz.damage import damage
from tests.fuzz.seeds import seeds

KINDS = (
    "PNG, JPEG, progressive JPEG, JPEG with EXIF, CMYK JPEG, WebP, lossless WebP, TIFF, LZW TIFF, 16-bit PNG, "
    "palette PNG, GIF, animated GIF, BMP, PPM, TGA, JPEG 2000, AVIF"
)


def test_every_kind_is_read_while_it_is_whole(tmp_path: Path) -> None:
    made = seeds()
    optional = [kind for kind in ("JPEG 2000", "AVIF") if kind not in made]  # which a Pillow may lack
    assert ", ".join([*made, *optional]) == KINDS
    for kind, (suffix, content) in made.items():
        path = tmp_path / f"{kind}{suffix}"
        path.write_bytes(content)
        assert len(content) < 16000, kind
        for reader in fuzz.READERS:
            reader(path)


def test_a_number_and_a_seed_give_the_same_damage() -> None:
    content = bytes(range(256)) * 4
    files = [damage(content, random.Random(f"0/{number}")) for number in range(20)]
    assert files == [damage(content, random.Random(f"0/{number}")) for number in range(20)]
    assert len({*files, content}) == 21


def test_damaged_files_are_read_or_refused() -> None:
    report = fuzz.run(300, seed=0)
    assert report.tracebacks == []
    assert report.hangs == []
    assert report.files == 300
    assert 0 < report.read["for_users"] < 300


def test_what_ought_not_to_happen_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise IndexError("of a decoder")

    def endless(path: Path) -> None:
        try:
            time.sleep(30)
        except Exception:
            return

    monkeypatch.setattr(fuzz, "READERS", (broken, endless))
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    report = fuzz.run(1, seed=0, first=4)
    assert len(report.tracebacks) == 1 and "IndexError: of a decoder" in report.tracebacks[0]
    assert report.hangs == [f"file 4 ({sorted(seeds())[4]}), endless"]
    assert report.failed
