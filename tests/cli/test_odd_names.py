"""Photos with line breaks and other control characters in their names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diffusers_sr.cli.main import main
from diffusers_sr.xpsr.prompts import read_prompts
from tests.cli.photos import files
from tests.components import tiny_image

NAMES = ["\x07a.png", "a\nb.png", "a\rb.png", "a\u2028b.png"]


@pytest.mark.skipif(os.name != "posix", reason="there are no such names elsewhere")
def test_results_keep_their_names_and_reports_take_one_line(run, capsys):
    Path("in").mkdir()
    for name in NAMES:
        tiny_image().save(Path("in", name))
    Path("in/not\nread.png").write_bytes(b"no image")
    assert run("in", "-o", "out") == 1
    assert files("out") == NAMES
    printed = capsys.readouterr().err
    assert r"in/not\nread.png: is not an image" in printed
    for name in NAMES:
        assert name not in printed
        assert repr(name)[1:-1] in printed, "in the progress bar"
    for layout in ("cache", "official"):
        command = ["caption", "in", "-o", layout, "--captioner", "measured", "--layout", layout, "--device", "cpu"]
        assert main(command) == 1
        assert r"in/not\nread.png: is not an image" in capsys.readouterr().err
        assert all(each.low_level for each in read_prompts(layout, [Path("in", name) for name in NAMES]))
