"""A short run of the fuzz command, and the command's own soundness."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.fuzz import processes
from tests.fuzz import run as fuzz
from tests.fuzz.damage import damage
from tests.fuzz.folders import SOUND, damaged, fill
from tests.fuzz.routes import ROUTES, Outcome
from tests.fuzz.seeds import seeds
from tests.fuzz.watch import Ended, watch

KINDS = (
    "PNG, JPEG, progressive JPEG, JPEG with EXIF, CMYK JPEG, WebP, lossless WebP, TIFF, LZW TIFF, 16-bit PNG, "
    "palette PNG, GIF, animated GIF, BMP, PPM, TGA, JPEG 2000, AVIF, MPO, Lab TIFF, 16-bit RGBA PNG, 16-bit RGB TIFF, "
    "16-bit TIFF with channels apart, 16-bit PPM"
)


def test_every_kind_is_read_while_it_is_whole(tmp_path: Path) -> None:
    made = seeds()
    optional = {"JPEG 2000", "AVIF"} - made.keys()  # which a Pillow may lack
    assert ", ".join(made) == ", ".join(kind for kind in KINDS.split(", ") if kind not in optional)
    for kind, (suffix, content) in made.items():
        path = tmp_path / f"{kind}{suffix}"
        path.write_bytes(content)
        assert len(content) < 20000, kind
        for reader in fuzz.READERS:
            reader(path)


def test_a_number_and_a_seed_give_the_same_damage() -> None:
    content = bytes(range(256)) * 4
    files = [damage(content, random.Random(f"0/{number}")) for number in range(20)]
    assert files == [damage(content, random.Random(f"0/{number}")) for number in range(20)]
    assert len({*files, content}) == 21


def test_damaged_and_hostile_files_are_read_or_refused() -> None:
    report = fuzz.run(90, seed=0)  # each hostile kind twice
    assert report.tracebacks == []
    assert report.hangs == []
    assert report.files == 90
    assert 0 < report.read["for_results"] <= report.read["for_users"] < 90


def test_what_ought_not_to_happen_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise IndexError("of a decoder")

    def endless(path: Path) -> None:
        try:
            while True:
                pass
        except Exception:
            return

    monkeypatch.setattr(fuzz, "READERS", (broken, endless))
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    report = fuzz.run(1, seed=0, first=4)
    assert len(report.tracebacks) == 1 and "IndexError: of a decoder" in report.tracebacks[0]
    assert report.hangs == [f"file 4 ({sorted(seeds())[4]}), endless"]
    assert report.failed


def test_a_folder_of_damaged_files_goes_through_the_command_line(tmp_path: Path) -> None:
    report = processes.run_routes(["upscale"], 54, seed=0, keep=tmp_path)
    assert report.findings == []
    total = report.totals["upscale"]
    assert (total.programs, total.files) == (1, 54)
    assert total.outcome.came_out > 5 and total.outcome.refused > 20
    assert total.outcome.came_out + total.outcome.refused == 54
    assert 0.1e9 < total.memory < 2e9
    assert list(tmp_path.iterdir()) == []


def test_a_folder_holds_the_files_of_its_numbers_and_a_whole_one(tmp_path: Path) -> None:
    paths = fill(tmp_path / "in", 3, seed=1, first=len(seeds()))
    assert paths[0].name == f"{len(seeds()):06d} 16-bit PNG.png"
    assert [path.read_bytes() for path in paths] == [damaged(len(seeds()) + number, 1)[2] for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "in").iterdir())[0] == SOUND


def test_a_program_that_stops_is_killed_and_one_that_goes_on_is_not(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "first.png").touch()
    stops = "import time; print('begins', flush=True); time.sleep(60)"
    goes_on = "import time; [print(n, flush=True) or time.sleep(0.3) for n in range(5)]; bytes(300_000_000)"
    ended = [watch([sys.executable, "-c", code], tmp_path, tmp_path / "results", 1) for code in (stops, goes_on)]
    assert ended[0].hung and ended[0].status < 0 and "Fatal Python error: Aborted" in ended[0].errors
    assert not ended[1].hung and ended[1].status == 0 and ended[1].output.split() == list("01234")
    assert ended[1].silence < 1 and ended[1].memory > 300e6


def found(route: str, work: Path, paths: list[Path], **how: object) -> list[str]:
    """Check a made-up end of a program: by default, of one that refused all damaged files, and did the rest."""
    errors = "".join(f"{path}: cannot be read\n" for path in paths)
    defaults = {"status": 1, "output": "", "errors": errors, "hung": False, "silence": 0.0, "memory": 1e9}
    return processes.problems_of(ROUTES[route], paths, work / "out", Ended(**{**defaults, **how}), Outcome())  # type: ignore[arg-type]


def test_what_ought_not_to_come_of_a_folder_is_noted(tmp_path: Path) -> None:
    paths = fill(tmp_path / "in", 2, seed=0)
    (tmp_path / "out").mkdir()
    whole = tmp_path / "out" / SOUND
    assert found("upscale", tmp_path, paths) == ["the whole photo did not come out"]
    fill(tmp_path / "other", 0, seed=0)
    shutil.copy(tmp_path / "other" / SOUND, whole)
    assert found("upscale", tmp_path, paths) == ["the whole photo came out as 48x40 pixels"]
    Image.new("RGB", (40, 48)).save(whole)
    assert found("upscale", tmp_path, paths) == []
    line = f"{paths[0]}: cannot be read\n"
    first, second = (path.name for path in paths)
    assert found("upscale", tmp_path, paths, errors=line) == [f"{second}: no picture, and 0 lines about it"]
    trace = f"{line}{line}{paths[1]}: x\nTraceback (most recent call last):\nIndexError: of a decoder\n"
    assert found("upscale", tmp_path, paths, errors=trace) == [
        "a traceback, which ends in 'IndexError: of a decoder'",
        f"{first}: no picture, and 2 lines about it",
    ]
    end = "the last line is"
    assert found("upscale", tmp_path, paths, status=-11)[0].startswith(f"exit status -11; {end}")
    assert found("upscale", tmp_path, paths, hung=True, status=-6)[0].startswith("no sign of life for 20 seconds")
    assert found("upscale", tmp_path, paths, memory=2.1e9) == ["2.10 GB of memory"]
    (tmp_path / "out" / ".x.partial").touch()
    (tmp_path / "out" / f"{paths[0].stem}.png").write_bytes(whole.read_bytes()[:60])
    problems = found("upscale", tmp_path, paths)
    assert problems[0] == ".x.partial is left"
    assert [problem.split(": ")[0] for problem in problems[1:]] == [f"{paths[0].stem}.png is not a whole picture"]
