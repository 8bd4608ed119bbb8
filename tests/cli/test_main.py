"""The command as a whole: how it ends."""

from __future__ import annotations

import os
import sys

import pytest

from diffusers_sr.cli.main import main


@pytest.mark.parametrize("arguments", [["models"], ["--help"]])
def test_a_reader_that_stops_early(arguments, monkeypatch, capsys):
    """As in `diffusers-sr models | head -1`: without a traceback, and with what is left to print thrown away."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(arguments) == 141
        print("what a process prints when it exits")
        output.flush()
    assert capsys.readouterr().err == ""
