"""`diffusers-sr upscale`: enlarge photographs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..image.names import printable
from .captioner import MEASURED, CaptionerError, load_captioner, prompts_of
from .method_options import add_method_options, check_together, read_method_options, refused_options
from .models import add_model, choose_model, load_model
from .options import add_device, choose_device, positive_int
from .parser import Commands
from .terminal import add_max_pixels, is_out_of_memory, limit_pixels, report

if TYPE_CHECKING:
    from ..pipeline import SuperResolutionPipeline

MOST_UPSCALE = 100
# A pixel of a tile takes about this many times the memory of a pixel of the result, of which only values are kept.
_MOST_TILES = 64

DESCRIPTION = """\
Enlarge photographs.

INPUT is an image file, or a folder whose images are all enlarged (its subfolders are not searched; hidden files and
files without an image's suffix are skipped). OUTPUT is the file to write if INPUT is one file and OUTPUT ends in .png,
.jpg, .webp, .tif or .bmp; otherwise it is a folder. In a folder a result keeps the name of its input, with the suffix
.png if its own format cannot be written, and with a number if another result has that name already. Existing files at
OUTPUT are overwritten (or kept, with --skip-existing), but inputs never are.

EXIF orientation is applied; colour profile, transparency and metadata (EXIF, XMP, IPTC, comments, texts, resolution)
are kept, and what the output's format cannot carry is said; grey stays grey. The output has 8 bits per channel.

A file or folder that cannot be read or written is reported, and the others are still processed. The exit status is 0
if all went well, 1 if something failed, 2 if the arguments make no sense, and 130 after an interruption.
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "upscale",
        help="enlarge photographs",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("input", nargs="+", type=Path, metavar="INPUT", help="image files and folders of images")
    command.add_argument("-o", "--output", required=True, type=Path, help="image file or folder to write")
    add_model(command)
    command.add_argument("--upscale", type=_factor, default=4.0, help="factor to enlarge by (%(default)s)")
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
    command.add_argument("--prompt", help="description of the image, added to what the model sees in it")
    command.add_argument(
        "--tile-size",
        type=positive_int,
        help="side of a tile of the denoiser in output pixels; smaller tiles need less memory (the model's default)",
    )
    command.add_argument(
        "--vae-tile-size",
        type=positive_int,
        default=768,
        help="the same for the VAE, whose tiles make no difference to the result (%(default)s)",
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
    command.add_argument("--skip-existing", action="store_true", help="keep existing results, to resume a folder")
    command.add_argument(
        "--seed", type=int, default=0, help="seed of the noise, the same for each image (%(default)s)"
    )
    add_max_pixels(command)
    add_device(command)
    add_method_options(command)


def _factor(text: str) -> float:
    value = float(text)
    if not 0 < value <= MOST_UPSCALE:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most {MOST_UPSCALE}")
    return value


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr upscale`."""
    check_together(parser, options)
    options.model = choose_model(parser, options)
    # Imported here, and torch with them, because --help and wrong arguments need neither.
    from ..image.decoding import ImageFileError
    from ..image.outputs import plan_outputs, why_without_images
    from ..image.pixels import output_size
    from ..image.reader import read_photo
    from ..image.transparency import under_transparency
    from ..image.writer import check_output, prepare_folder, unkept, write_photo

    limit_pixels(options.max_pixels)
    try:
        outputs = plan_outputs(options.input, options.output)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    arguments = _call_arguments(options) | read_method_options(parser, options)
    device = choose_device(parser, options.device)
    pipeline: SuperResolutionPipeline | None = None
    seconds: list[float] = []
    failures = skipped = 0
    prepared: set[Path] = set()
    for path in options.input:
        if reason := why_without_images(path):
            failures += 1
            report(path, reason)
    for source, target in outputs:
        if options.skip_existing and os.path.exists(target):
            skipped += 1
            continue
        try:
            photo = read_photo(source)
            height, width = output_size(photo.image.height, photo.image.width, options.upscale)
            check_output(photo, target, width, height)
            if target.parent not in prepared:
                prepare_folder(target.parent)
                prepared.add(target.parent)
            if pipeline is None:
                pipeline = load_model(options, device)
                if pipeline is None:
                    return 1
                _check(parser, pipeline, options, arguments)
                if options.captioner == MEASURED:
                    arguments["captioner"] = options.captioner
                elif options.captioner is not None:
                    arguments["captioner"] = load_captioner(options.captioner, device, options.dtype)
            if options.prompts is not None:
                arguments["captioner"] = prompts_of(source, options.prompts)
            for note in [*photo.notes, *unkept(photo, target, width, height)]:
                report(source, note)
            start = time.perf_counter()
            shown = photo.image if photo.alpha is None else under_transparency(photo.image, photo.alpha)
            image = enlarge(pipeline, shown, source.name, options.seed, arguments)
            write_photo(target, image, photo)
            seconds.append(time.perf_counter() - start)
        except CaptionerError as error:
            print(f"diffusers-sr: {error}", file=sys.stderr)
            return 1
        # A ValueError is the pipeline's, about its arguments for this image.
        except (ImageFileError, ValueError, OSError) as error:
            failures += 1
            report(source, str(error))
    if skipped:
        print(f"Skipped, because they exist: {skipped}")
    if seconds:
        print(f"Images done: {len(seconds)}, {sum(seconds) / len(seconds):.1f} seconds an image")
    if failures and len(outputs) > 1:
        print(f"Images and folders that failed: {failures}")
    return 1 if failures else 0


def enlarge(pipeline: SuperResolutionPipeline, image: Any, name: str, seed: int, arguments: dict[str, Any]) -> Any:
    """Run the pipeline on one RGB image; its progress bar carries `name`.

    Every image starts from the same seed, so that its result does not depend on the other images.

    Raises:
        ValueError: if there is not enough memory, or an argument does not suit the pipeline.
    """
    import torch

    pipeline.set_progress_bar_config(desc=printable(name))
    generator = torch.Generator("cpu").manual_seed(seed)
    try:
        (images,) = pipeline(image=image, generator=generator, return_dict=False, **arguments)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"there is not enough memory{_remedy(pipeline, image, arguments)}") from error
    return images[0]


def _remedy(pipeline: SuperResolutionPipeline, image: Any, arguments: dict[str, Any]) -> str:
    """Say what helps when memory ran out: smaller tiles, unless the result is too large or tiles cannot be smaller."""
    call = pipeline.check_inputs(**arguments)
    width, height = round(image.width * call.upscale), round(image.height * call.upscale)
    if width * height > _MOST_TILES * call.tile_size**2:
        return f" for a result of {width}x{height} pixels: try a smaller --upscale, or cut the image"
    sizes = {"--tile-size": call.tile_size, "--vae-tile-size": call.vae_tile_size}
    smaller = [option for option, size in sizes.items() if size > pipeline.vae_scale_factor]
    return f": try a smaller {' and '.join(smaller)}" if smaller else ""


def _call_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Read the arguments that were given of those that are not a method's own; all images of a command share them."""
    arguments = {
        "prompt": options.prompt,
        "upscale": options.upscale,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "fidelity": options.fidelity,
        "strength": options.strength,
        "tile_size": options.tile_size,
        "tile_overlap": options.tile_overlap,
        "vae_tile_size": options.vae_tile_size,
        "official_preprocessing": options.official_preprocessing,
    }
    if options.color_fix is not None:
        arguments["color_fix"] = None if options.color_fix == "none" else options.color_fix
    return {name: value for name, value in arguments.items() if value is not None or name == "color_fix"}


def _check(
    parser: argparse.ArgumentParser,
    pipeline: SuperResolutionPipeline,
    options: argparse.Namespace,
    arguments: dict[str, Any],
) -> None:
    """Exit with status 2 if an argument does not suit the pipeline, whatever the image."""
    if refused := refused_options(type(pipeline).call_class, options):
        parser.error(f"{options.model} is a {type(pipeline).__name__}, which has no {', '.join(refused)}")
    try:
        pipeline.check_inputs(**arguments)
    except ValueError as error:
        parser.error(str(error))
