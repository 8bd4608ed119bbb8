"""The commands of `diffusers-sr`: each adds its own parser, from its own file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import caption, convert, evaluate, released, testset, upscale
from .parser import CommandParser

_READER_IS_GONE = 141  # as the shell reports a program that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 130 after an interruption, 141 if the output's reader is gone.

    Args:
        arguments: the arguments without the program's name; by default those of the process.

    Raises:
        SystemExit: with status 2 for wrong arguments and 0 after `--help`, as argparse does.
    """
    parser = _parser()
    try:
        try:
            options = parser.parse_args(arguments)
            return options.run(parser, options)
        finally:
            print(end="", flush=True)  # here, as an error when the process exits could not be handled
    except BrokenPipeError:  # `diffusers-sr models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _READER_IS_GONE
    except KeyboardInterrupt:
        print("diffusers-sr: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffusers-sr", description="Super-resolution of real photographs with Stable Diffusion."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    for command in (upscale, evaluate, testset, caption, convert, released):
        command.add_parser(commands)
    return parser
