"""The options for the arguments of a call that every method has."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ..sampling.call import START_POINTS
from ..sampling.checks import AUTO
from .method_options import refused_options
from .options import positive_int

if TYPE_CHECKING:
    from ..pipeline import SuperResolutionPipeline


def add_call_options(command: argparse.ArgumentParser) -> None:
    """Add the options; `call_arguments` reads them."""
    command.add_argument("--steps", type=positive_int, help="denoising steps (the model's default)")
    command.add_argument(
        "--guidance-scale",
        type=float,
        help="weight of the text; at 1 or below there is no guidance (the model's default)",
    )
    command.add_argument(
        "--fidelity",
        type=float,
        help="from 0, more detail, to 1, closer to the photo; 0.5 is the model's default, and options that are given "
        "override it",
    )
    command.add_argument(
        "--strength",
        type=float,
        help="share of the steps that is taken, with less noise on the photo: above 0, up to 1 (the model's default)",
    )
    command.add_argument(
        "--start-point",
        choices=START_POINTS,
        help="start from the photo under noise (lr), or from noise alone (noise) (the model's default)",
    )
    command.add_argument("--prompt", help="description of the image, added to what the model sees in it")
    command.add_argument(
        "--tile-size",
        type=_tile_size,
        metavar="N",
        help="side of a tile of the denoiser in output pixels; smaller tiles need less memory; auto takes the largest "
        "that fits into what is free, up to the model's default (the model's default)",
    )
    command.add_argument(
        "--vae-tile-size",
        type=_tile_size,
        default=768,
        metavar="N",
        help="the same for the VAE, whose tiles make no difference to the result, or hardly any (%(default)s)",
    )
    command.add_argument(
        "--tile-overlap",
        type=int,
        help="overlap of tiles in output pixels, less than the tile size (the model's default)",
    )
    command.add_argument(
        "--color-fix",
        choices=("adain", "wavelet", "none"),
        help="how to keep the photo's colours (the model's default)",
    )
    command.add_argument(
        "--official-preprocessing",
        action="store_true",
        help="enlarge, stretch and round as the official script does, to reproduce published numbers",
    )
    add_paper(command)


def add_paper(command: argparse.ArgumentParser) -> None:
    """Add `--paper`."""
    command.add_argument(
        "--paper",
        action="store_true",
        help="settings with which the paper's results were made, where they differ from the model's defaults; options "
        "that are given override them",
    )


def call_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Read the arguments that were given; all images of a command share them."""
    arguments = {
        "prompt": options.prompt,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "fidelity": options.fidelity,
        "strength": options.strength,
        "start_point": options.start_point,
        "tile_size": options.tile_size,
        "tile_overlap": options.tile_overlap,
        "vae_tile_size": options.vae_tile_size,
        "official_preprocessing": options.official_preprocessing or None,
    }
    if options.color_fix is not None:
        arguments["color_fix"] = None if options.color_fix == "none" else options.color_fix
    return {name: value for name, value in arguments.items() if value is not None or name == "color_fix"}


def fit_tiles(pipeline: SuperResolutionPipeline, options: argparse.Namespace, arguments: dict[str, Any]) -> None:
    """Replace "auto" among the arguments by sizes that fit now, the same for all photos, and say which."""
    names = [name for name in ("tile_size", "vae_tile_size") if arguments.get(name) == AUTO]
    if not names:
        return
    call = pipeline.check_inputs(**arguments, image=[None] * options.batch_size)
    if "tile_size" in names:
        names.insert(1, "tile_overlap")
    arguments |= {name: getattr(call, name) for name in names}
    chosen = ", ".join(f"--{name.replace('_', '-')} {arguments[name]}" for name in names)
    print(f"chosen for the memory that is free: {chosen}", file=sys.stderr)


def check_arguments(
    parser: argparse.ArgumentParser,
    pipeline: SuperResolutionPipeline,
    options: argparse.Namespace,
    arguments: dict[str, Any],
) -> None:
    """Exit with status 2 if an argument does not suit the pipeline, whatever the image.

    Arguments that its calls do not have, as they always have the value that was given, are taken out.
    """
    if refused := refused_options(type(pipeline).call_class, options):
        parser.error(f"{options.model} is a {type(pipeline).__name__}, which has no {', '.join(refused)}")
    for name in type(pipeline).call_class.fixed:
        arguments.pop(name, None)
    try:
        pipeline.check_inputs(**arguments)
    except ValueError as error:
        parser.error(str(error))


def _tile_size(text: str) -> int | str:
    if text == AUTO:
        return text
    try:
        return positive_int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor {AUTO}") from None
