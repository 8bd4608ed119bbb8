"""`diffusers-sr caption`: describe the photographs of a folder."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from ..xpsr.caption_names import LAYOUTS, PRACTICAL_MODEL
from .captioner import CAPTIONER_HELP, MEASURED, CaptionerError, load_captioner
from .method_options import method_arguments
from .options import add_device, choose_device, positive_int
from .parser import Commands
from .processes import from_all, from_first, join_group, leave_group, own_device
from .terminal import add_max_pixels, limit_pixels, report

DESCRIPTION = """\
Describe photographs: what each shows, and how good it is.

FOLDER is a folder of images; with --recursive the folders in it are searched, too, as training does. Images that are
described already are left alone, so that an interrupted run can continue. Several processes share the images:
`torchrun --nproc_per_node 8 -m diffusers_sr.cli caption ...` starts eight. `diffusers-sr upscale --prompts` takes the
output, and so does training.

A file that cannot be read is reported, and the others are still processed. The exit status is 0 if all went well, 1 if
something failed, 2 if the arguments make no sense, and 130 after an interruption.
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    pipelines = " and ".join(method_arguments()["captioner"].pipelines)
    command = commands.add_parser(
        "caption",
        help=f"describe photographs, for {pipelines}",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="folder of images")
    command.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="folder of prompts to write")
    command.add_argument("--recursive", action="store_true", help="search the folders in FOLDER, too")
    command.add_argument(
        "--captioner", default=PRACTICAL_MODEL, metavar="MODEL", help=f"{CAPTIONER_HELP} (%(default)s)"
    )
    command.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="one file, found by the images' pixels, or text files found by their names (%(default)s)",
    )
    command.add_argument(
        "--names", action="store_true", help=f"with `{MEASURED}`: take what an image shows from its file name"
    )
    command.add_argument("--batch-size", type=positive_int, default=4, help="images to describe at once (%(default)s)")
    add_max_pixels(command)
    add_device(command)


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr caption`."""
    if options.names and options.captioner != MEASURED:
        parser.error(
            f"argument --names: not allowed with a --captioner other than {MEASURED}, which says what it sees"
        )
    group = join_group()
    device = own_device(choose_device(parser, options.device), group)
    limit_pixels(options.max_pixels)
    from ..sampling.out_of_memory import is_out_of_memory
    from ..xpsr.caption_folder import MEASURED_SETTINGS, Described, caption_folder, measure_folder
    from ..xpsr.captioner import captioner_settings
    from ..xpsr.prompts import PromptCache

    settings = MEASURED_SETTINGS if options.captioner == MEASURED else captioner_settings(options.captioner)
    load = functools.cache(load_captioner)  # if everything is described, nothing is loaded
    try:
        if group.size > 1 and options.layout == LAYOUTS[0]:
            if group.is_first:
                PromptCache(options.output, settings).begin()
            from_first(group, None)  # the others wait for the file that all add to
        if options.captioner == MEASURED:
            done = measure_folder(
                options.folder,
                options.output,
                layout=options.layout,
                high_level_from_names=options.names,
                recursive=options.recursive,
                part=group,
                report=report,
            )
        else:
            done = caption_folder(
                options.folder,
                options.output,
                lambda images: load(options.captioner, device, options.dtype, batch_size=options.batch_size)(images),
                settings,
                layout=options.layout,
                batch_size=options.batch_size,
                recursive=options.recursive,
                part=group,
                report=report,
            )
    except (CaptionerError, OSError, ValueError) as error:
        print(f"diffusers-sr: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print("diffusers-sr: there is not enough memory: try a smaller --batch-size", file=sys.stderr)
        return 1
    done = Described(*map(sum, zip(*from_all(group, done), strict=True)))
    leave_group(group)
    failed = f", failed: {done.unreadable}" if done.unreadable else ""
    if group.is_first:
        print(f"Images described: {done.described}, described before: {done.kept}{failed}")
    return 1 if done.unreadable else 0
