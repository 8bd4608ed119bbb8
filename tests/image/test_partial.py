"""Results appear once they are complete, and what killed runs left behind is removed by the next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_sr.image.partial import remove_left_over, whole_file
from tests.cli.photos import files


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def partial_name(path: Path) -> str:
    with whole_file(path) as temporary:
        temporary.touch()
        return temporary.name


def test_a_file_appears_once_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert (files(tmp_path), path.read_text()) == (["a.png"], "old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert (files(tmp_path), path.read_text()) == (["a.png"], "new")


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "é" * 125 + "a.png", "日" * 83 + "aa.png"])
def test_names_of_255_bytes(tmp_path: Path, name: str) -> None:
    assert len(os.fsencode(name)) == 255
    with whole_file(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert files(tmp_path) == [name]


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9.png"]


def test_only_our_own_files_of_ended_processes_are_removed(tmp_path: Path) -> None:
    mine = partial_name(tmp_path / "a.png")
    ended = mine.replace(f"-{os.getpid()}-", f"-{ended_process()}-")
    parent = mine.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    init = mine.replace(f"-{os.getpid()}-", "-1-")
    machine = mine.split("-")[2]
    elsewhere = ended.replace(machine, "0" * 8 if machine != "0" * 8 else "1" * 8)
    others = [mine, parent, init, elsewhere, "film.partial", f".film.{ended_process()}.partial", f"x{ended}", "a.png"]
    for name in (ended, *others):
        (tmp_path / name).touch()
    remove_left_over(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)
    remove_left_over(tmp_path / "nowhere")
