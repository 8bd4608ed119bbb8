"""`diffusers-sr convert METHOD`: make a pipeline folder from official checkpoints.

The methods are the converters that the pipeline classes name, and their options are the converters' arguments.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

from ..hub import METHODS, converter_of, pipeline_class
from ..publishing.shareable import mask_credentials
from .parser import Commands
from .terminal import quiet_libraries


def add_parser(commands: Commands) -> None:
    """Add the command; its methods follow when it is chosen, since the pipeline classes take long to import."""
    commands.add_parser("convert", help="make a pipeline folder from official checkpoints", complete=_add_methods)


def _add_methods(command: argparse.ArgumentParser) -> None:
    methods = command.add_subparsers(required=True, metavar="METHOD")
    for method in METHODS:
        for name in pipeline_class(method).converters:
            add_converter(methods, name, converter_of(method, name))


def add_converter(
    methods: argparse._SubParsersAction[Any],
    name: str,
    converter: Callable[..., None],
) -> None:
    """Add a parser with an option for every argument of a converter, with the help in its docstring."""
    description, helps = _read_docstring(converter)
    method = methods.add_parser(
        name,
        help=description.partition("\n")[0],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    method.set_defaults(run=run, converter=converter)
    hints = get_type_hints(converter)
    for parameter in inspect.signature(converter).parameters.values():
        required = parameter.default is inspect.Parameter.empty
        text = helps[parameter.name]
        method.add_argument(
            f"--{parameter.name.replace('_', '-')}",
            required=required,
            default=argparse.SUPPRESS,  # what is not given is not passed on
            metavar="PATH" if os.PathLike[str] in get_args(hints[parameter.name]) else None,
            help=(text if required or parameter.default is None else f"{text} ({parameter.default})").replace(
                "%", "%%"
            ),
        )


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr convert METHOD`."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("diffusers_sr").setLevel(logging.INFO)
    quiet_libraries()
    arguments = {name: value for name, value in vars(options).items() if name not in ("run", "converter")}
    try:
        options.converter(**arguments)
    except (OSError, ValueError) as error:
        print(f"diffusers-sr: {mask_credentials(str(error))}", file=sys.stderr)
        return 1
    print(f"Written to {options.output}")
    return 0


def _read_docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Read what a docstring says before its arguments, and about each of them."""
    description, _, rest = (inspect.getdoc(function) or "").partition("\n\nArgs:\n")
    entries = re.split(r"^    (\w+): ", rest.partition("\n\n")[0], flags=re.MULTILINE)[1:]
    texts = [" ".join(text.split()).removesuffix(".") for text in entries[1::2]]
    return description, dict(zip(entries[::2], texts, strict=True))
