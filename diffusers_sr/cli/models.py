"""The choice of a command's model, and loading it."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from typing import TYPE_CHECKING

from ..hub import DEFAULT_METHOD, METHODS, embedded_models, load_pipeline, small_model
from ..publishing.shareable import mask_credentials
from .options import choose_dtype
from .terminal import quiet_libraries

if TYPE_CHECKING:
    from ..pipeline import SuperResolutionPipeline


def add_model(command: argparse.ArgumentParser) -> None:
    """Add --method and --model."""
    command.add_argument(
        "--method",
        choices=tuple(METHODS),
        help=f"method of the --model or, without it, of the package's small model ({DEFAULT_METHOD})",
    )
    command.add_argument("--model", help="pipeline folder, Hub id, or name of a model that `models` lists")


def choose_model(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """Take --model, or the package's small model of --method; exit with status 2 if there is no such model."""
    if options.model:
        model: str = options.model
        return model
    method = options.method or DEFAULT_METHOD
    name = small_model(method)
    if name not in embedded_models():
        parser.error(f"argument --method: the package has no small model of {method}; give one with --model")
    return name


def load_model(options: argparse.Namespace, device: str) -> SuperResolutionPipeline | None:
    """Load the pipeline to the device, or with `--offload` to main memory; say why and return None if that fails."""
    quiet_libraries()
    # Terms of use, and what is downloaded and converted.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("diffusers_sr.released").setLevel(logging.INFO)
    dtype = choose_dtype(options.dtype, device)
    libraries = logging.getLogger("diffusers")
    level = libraries.level
    libraries.setLevel(logging.CRITICAL)  # what the libraries log and warn of on damaged files is in the error
    try:
        with warnings.catch_warnings(action="ignore"):
            place = "cpu" if vars(options).get("offload") else device
            return load_pipeline(options.model, method=options.method, device=place, dtype=dtype)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        message = f"diffusers-sr: the model {options.model} could not be loaded: {reason}"
        print(mask_credentials(message), file=sys.stderr)
        return None
    finally:
        libraries.setLevel(level)
