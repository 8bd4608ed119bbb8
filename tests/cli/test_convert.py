"""`diffusers-sr convert`; what the converters write is tested with the methods."""

from __future__ import annotations

import argparse
import re

import pytest

from diffusers_sr import hub
from diffusers_sr.cli.convert import add_converter
from diffusers_sr.cli.main import main
from tests.cli.photos import files

# Those without brackets are required.
USAGES = {
    "seesr": "--unet PATH --controlnet PATH --output PATH [--ram PATH] [--dape PATH] [--ram-tags PATH] [--base PATH]",
    "addsr": "--unet PATH --controlnet PATH --output PATH [--ram PATH] [--dape PATH] [--ram-tags PATH] [--base PATH]",
    "seesr-turbo": "--unet PATH --controlnet PATH --output PATH --base PATH [--ram PATH] [--dape PATH] "
    "[--ram-tags PATH]",
    "coser": "--checkpoint PATH --qformer PATH --output PATH [--cfw PATH] [--base PATH] [--clip PATH]",
    "scedit": "--checkpoint PATH --output PATH",
    "xpsr": "--unet PATH --controlnet PATH --output PATH [--base PATH]",
    "pasd": "--unet PATH --controlnet PATH --output PATH [--base PATH]",
    "pisa": "--checkpoint PATH --output PATH --base PATH",
    "osediff": "--checkpoint PATH --output PATH --base PATH [--ram PATH] [--dape PATH] [--ram-tags PATH]",
    "gdpo": "--checkpoint PATH --output PATH --base PATH [--ram PATH] [--dape PATH] [--ram-tags PATH]",
    "omgsr": "--checkpoint PATH --output PATH --base PATH",
    "hypir": "--checkpoint PATH --output PATH --base PATH",
}


@pytest.mark.parametrize("method", USAGES)
def test_options_are_the_arguments_of_the_converter(method, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["convert", method, "--help"])
    assert exit.value.code == 0
    usage, description, options = capsys.readouterr().out.split("\n\n", 2)
    assert " ".join(usage.split()) == f"usage: diffusers-sr convert {method} [-h] {USAGES[method]}"
    assert description.startswith("Write a folder for `")
    assert "--output PATH folder to write, which must not exist" in " ".join(options.split())


def test_every_converter_is_offered(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["convert", "--help"])
    assert exit.value.code == 0
    output = capsys.readouterr().out
    assert re.findall(r"^ {4}(\S+)\s+Write a folder for", output, re.MULTILINE) == list(USAGES)
    assert list(USAGES) == [name for method in hub.METHODS for name in hub.pipeline_class(method).converters]


def test_help_is_read_off_the_docstring(capsys):
    def convert(first: str, *, by_default: str = "50 %", open: str | None = None) -> None:
        """Do nothing.

        Nothing at all.

        Args:
            first: one line, and
                another.
            by_default: has a value.
            open: has none: it is left out.

        Raises:
            ValueError: never.
        """

    parser = argparse.ArgumentParser(prog="prog")
    add_converter(parser.add_subparsers(), "nothing", convert)
    assert vars(parser.parse_args(["nothing", "--first", "a"])).keys() == {"run", "converter", "first"}
    with pytest.raises(SystemExit):
        parser.parse_args(["nothing", "--help"])
    usage, *description, options = capsys.readouterr().out.rstrip().split("\n\n")
    assert usage == "usage: prog nothing [-h] --first FIRST [--by-default BY_DEFAULT] [--open OPEN]"
    assert description == ["Do nothing.", "Nothing at all."]
    assert " ".join(options.split()) == (
        "options: -h, --help show this help message and exit --first FIRST one line, and another --by-default "
        "BY_DEFAULT has a value (50 %) --open OPEN has none: it is left out"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: METHOD"),
        (("magic",), "invalid choice: 'magic'"),
        (("xpsr", "--unet", "a", "--output", "b"), "the following arguments are required: --controlnet"),
        (
            ("xpsr", "--clip", "c", "--unet", "a", "--controlnet", "b", "--output", "d"),
            "unrecognized arguments: --clip",
        ),
    ],
)
def test_arguments_that_make_no_sense(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit:
        main(["convert", *arguments])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("method", ["xpsr", "pasd"])
def test_files_that_are_not_there(tmp_path, monkeypatch, capsys, method):
    monkeypatch.chdir(tmp_path)
    folders = ("--unet", "no_unet", "--controlnet", "no_controlnet", "--output", "out", "--base", "base")
    assert main(["convert", method, *folders]) == 1
    assert "no_unet" in capsys.readouterr().err
    assert files() == []
