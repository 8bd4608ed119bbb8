"""The bar of a whole folder."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import termios
from pathlib import Path

import pytest

from tests import programs
from tests.components import tiny_image


@pytest.fixture
def shown(model, tmp_path, monkeypatch):
    """What a process of the command shows on a terminal that is its standard error."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for number in range(3):
        tiny_image(seed=number).save(f"in/{number}.png")
    Path("in/1_broken.png").write_text("no image")

    def shown(*arguments: str) -> str:
        terminal, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        words = ("-m", "diffusers_sr.cli", "upscale", *arguments, "--model", model, "--device", "cpu")
        process = programs.start(*words, environment={"TERM": "xterm"}, errors=os.ttyname(end))
        text = b""
        while (is_readable := select.select([terminal], [], [], 0.02)[0]) or process.poll() is None:
            if is_readable:
                text += os.read(terminal, 1 << 16)
        os.close(end)
        os.close(terminal)
        return text.decode()

    return shown


def test_a_folder_on_a_terminal(shown):
    text = shown("in", "-o", "out")
    assert "photos:   0%" in text
    counts = [int(number) for number in re.findall(r"photos: [^\r\n]*? (\d)/4 \[", text)]
    assert counts == sorted(counts)
    assert {0, 1, 4} <= {*counts}  # steps that follow each other fast are not shown
    assert re.search(r"photos: [^\r\n]*? [123]/4 \[\d\d:\d\d<\d\d:\d\d, ", text)  # the time left
    assert "0.png: 100%" in text
    assert text.count("in/1_broken.png: is not an image that can be read") == 1


def test_a_single_photo_has_only_its_steps(shown):
    text = shown("in/0.png", "-o", "out")
    assert "0.png: 100%" in text
    assert "photos" not in text


def test_without_a_terminal(run, capsys):
    for name in ("a.png", "b.png"):
        tiny_image().save(name)
    assert run("a.png", "b.png", "-o", "out") == 0
    assert "photos" not in capsys.readouterr().err
