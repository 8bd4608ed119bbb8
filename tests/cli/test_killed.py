"""Real processes that are killed, and the runs after them; and two at the same time."""

from __future__ import annotations

import multiprocessing
import re
import signal
import time
from pathlib import Path

import pytest

from diffusers_sr.cli.claims import claim
from diffusers_sr.image.reader import read_photo
from tests import programs
from tests.cli.photos import files
from tests.components import tiny_image

OPTIONS = ("in", "-o", "out", "--recursive", "--compare", "--skip-existing")
# Ends its own process by a signal in the middle of writing the third file.
KILLED_IN_WRITING = """
import os, signal, sys
from PIL import Image
from diffusers_sr.cli.main import main
save, calls = Image.Image.save, []
def half(self, path, **options):
    save(self, path, **options)
    calls.append(path)
    if len(calls) == 3:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
Image.Image.save = half
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def start(run, model):
    """A process of the command on a tree of six photos."""
    for number in range(6):
        path = Path("in", *["sub"] * (number % 2), f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        tiny_image(16, 12, seed=number).save(path)

    def start(*program: str, output: str = "output") -> programs.Program:
        options = ("--model", model, "--upscale", "2", "--device", "cpu", *OPTIONS)
        return programs.start(*program, "upscale", *options, output=output, errors="errors")

    return start


@pytest.fixture
def whole(start, run) -> dict[str, bytes]:
    """What a run that nothing interrupts writes."""
    assert run(*OPTIONS, "-o", "whole") == 0
    return contents("whole")


def contents(folder: str) -> dict[str, bytes]:
    return {name: Path(folder, name).read_bytes() for name in files(folder)}


def check_and_complete(run, whole: dict[str, bytes]) -> None:
    """Check that no result is half, then run once more."""
    kept = {name: content for name, content in contents("out").items() if not name.endswith(".partial")}
    assert 0 < len(kept) < len(whole) == 12
    assert kept == {name: whole[name] for name in kept}
    for name in kept:
        read_photo(Path("out", name))
    assert run(*OPTIONS) == 0
    assert contents("out") == whole


@pytest.mark.parametrize("kind", ["SIGKILL", "SIGINT"])
def test_killed_between_photos(run, start, whole, kind):
    process = start("-m", "diffusers_sr.cli")
    while not Path("out/2.png").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(getattr(signal, kind))
    assert process.wait() == (130 if kind == "SIGINT" else -getattr(signal, kind))
    if kind == "SIGINT":
        assert Path("errors").read_text().endswith("diffusers-sr: interrupted\n")
        assert "Images done: " in Path("output").read_text()
    check_and_complete(run, whole)


def test_killed_in_the_middle_of_writing(run, start, whole):
    assert start("-c", KILLED_IN_WRITING).wait() == -signal.SIGKILL
    partial = [name for name in files("out") if name.endswith(".partial")]
    assert len(partial) == 1
    check_and_complete(run, whole)


def test_what_was_left_is_removed_even_if_all_is_done(run, start, whole):
    start("-c", KILLED_IN_WRITING).wait()
    (partial,) = (name for name in files("out") if name.endswith(".partial"))
    for name, content in whole.items():
        Path("out", name).parent.mkdir(exist_ok=True)
        Path("out", name).write_bytes(content)
    assert run(*OPTIONS) == 0
    assert contents("out") == whole
    assert partial not in files("out")


def test_two_commands_at_the_same_time_make_each_result_once(start, whole):
    both = [start("-m", "diffusers_sr.cli", output=output) for output in ("first", "second")]
    assert [process.wait() for process in both] == [0, 0]
    done = re.findall(r"Images done: (\d+)", Path("first").read_text() + Path("second").read_text())
    assert sum(map(int, done)) == 6
    assert contents("out") == whole


def hold(connection) -> None:
    """Claim a result, say so, and end when told to."""
    held = claim(Path("out/2.png"))
    connection.send("held")
    connection.recv()
    held.release()


def test_a_result_that_another_process_is_making_is_left_to_it(run, whole, capsys):
    processes = multiprocessing.get_context("fork")
    connection, others = processes.Pipe()
    other = processes.Process(target=hold, args=(others,))
    other.start()
    assert connection.recv() == "held"
    assert run(*OPTIONS) == 0
    assert "Skipped, because they exist: 1\n" in capsys.readouterr().out
    assert contents("out") == {name: content for name, content in whole.items() if not name.startswith("2")}
    connection.send("end")
    other.join()
    assert run(*OPTIONS) == 0
    assert contents("out") == whole
