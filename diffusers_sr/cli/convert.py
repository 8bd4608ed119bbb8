"""`diffusers-sr convert METHOD`: make a folder to load of official checkpoints."""

from __future__ import annotations

import argparse
import logging
import sys
from importlib import import_module

from .common import quiet_libraries


def convert(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr convert METHOD`, whose options are the arguments of the method's converter."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("diffusers_sr").setLevel(logging.INFO)
    quiet_libraries()
    module, function = options.converter
    converter = getattr(import_module(module), function)
    arguments = {name: value for name, value in vars(options).items() if name not in ("run", "converter")}
    try:
        converter(**arguments)
    except (OSError, ValueError) as error:
        print(f"diffusers-sr: {error}", file=sys.stderr)
        return 1
    print(f"Written to {options.output}")
    return 0
