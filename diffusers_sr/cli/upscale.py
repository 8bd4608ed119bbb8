"""`diffusers-sr upscale`: enlarge photographs."""

from __future__ import annotations

import argparse

from .call_arguments import add_call_options
from .files import add_file_options, check_quality
from .memory_options import add_memory_options
from .method_options import add_method_options, check_together
from .models import add_model, choose_model
from .options import add_device, positive_int
from .parser import Commands
from .sizes import add_size_options
from .terminal import add_max_pixels

DESCRIPTION = """\
Enlarge photographs.

INPUT is an image file, or a folder whose images are all enlarged (with --recursive also those of the folders in it;
hidden files and folders, links to folders, and files without an image's suffix are skipped). OUTPUT is the file to
write if INPUT is one file and OUTPUT ends in .png, .jpg, .webp, .tif, .avif or .bmp; otherwise it is a folder. In a
folder a result keeps the name of its input, with the suffix .png if its own format cannot be written (AVIF is written
where it is asked for, as not every Pillow can), and with a number if another result has that name already. Existing
files at OUTPUT are overwritten (or kept, with --skip-existing), but inputs never are.

Photos that are larger already than --long-side, --width, --megapixels or --max-side ask for are left alone, which is
said; only an --upscale below 1 reduces.

EXIF orientation is applied; colour profile, transparency and metadata (EXIF, XMP, IPTC, comments, texts, resolution)
are kept, and what the output's format cannot carry is said; grey stays grey. 16 bits per channel stay 16 in PNG and
TIFF, and become 8 in other formats, which is said. Of animations and files of several pages the first picture is
taken, which is said. The settings are recorded in the result. --strip-metadata leaves out metadata and settings.

A file or folder that cannot be read or written is reported, the others are still processed, and the summary at the end
names all that failed. The exit status is 0 if all went well, 1 if something failed, 2 if the arguments make no sense,
and 130 after an interruption.
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
    add_file_options(command)
    add_model(command)
    add_size_options(command)
    add_call_options(command)
    command.add_argument(
        "--seed", type=int, default=0, help="seed of the noise, the same for each image (%(default)s)"
    )
    command.add_argument(
        "--batch-size",
        type=positive_int,
        default=1,
        metavar="N",
        help="neighbours of one size to enlarge at once; results are the same but for rounding (%(default)s)",
    )
    add_max_pixels(command)
    add_device(command)
    add_memory_options(command)
    add_method_options(command)


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr upscale`."""
    check_together(parser, options)
    check_quality(parser, options)
    if options.batch_size > 1 and options.reference is not None:
        parser.error("argument --batch-size: not allowed with argument --reference, whose images are for each photo")
    options.model = choose_model(parser, options)
    # Imported here, and torch with it, because --help and wrong arguments need neither.
    from .upscale_run import upscale

    return upscale(parser, options)
