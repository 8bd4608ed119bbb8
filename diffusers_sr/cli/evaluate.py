"""`diffusers-sr evaluate`: measure results against their originals."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..evaluation.protocols import PROTOCOLS
from .call_arguments import add_paper
from .models import add_model, choose_model
from .options import add_device
from .parser import Commands
from .terminal import add_max_pixels

DESCRIPTION = """\
Measure results against their originals.

RESULTS is a folder of results, and ORIGINALS one of files of the same names (suffixes may differ) and sizes, or a test
set, such as StableSR's or one that `testset` has made. With --model the results are made first: INPUTS are enlarged to
the size of their originals, and written to RESULTS.

PSNR and SSIM are those of published tables. The other measures need pyiqa (pip install 'diffusers-sr[eval]', not for
commercial use), which downloads their networks; without it they are "not measured". --protocol measures as a paper
does: its measures, colour space and crop, and no other data than its test sets.

Files without a partner, of different sizes, or that are not images are an error that lists all of them before anything
is measured; nothing is resized. Damage that only shows when a picture is read ends the measuring, without a table, and
all damaged files are listed. The exit status is 0 if all went well, 1 if something failed, 2 if the arguments make
no sense, and 130 after an interruption.
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "evaluate",
        help="measure results against their originals",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("results", type=Path, metavar="RESULTS", help="folder of results")
    command.add_argument("originals", type=Path, metavar="ORIGINALS", help="folder of originals, or a test set")
    command.add_argument("--protocol", choices=tuple(PROTOCOLS), help="paper to measure as (OSEDiff's measures)")
    command.add_argument("--against", type=Path, metavar="OTHER", help="folder of other results to compare with")
    command.add_argument("--name", help="what the results are called in tables (the folder's name, or the model's)")
    command.add_argument(
        "--latex", action="store_true", help="print rows for a LaTeX table instead of a Markdown table"
    )
    command.add_argument("--csv", type=Path, metavar="FILE", help="file to write with the values of each picture")
    command.add_argument(
        "--json", type=Path, metavar="FILE", help="file to write with the metadata for a model card, `model-index`"
    )
    add_model(command)
    add_paper(command)
    command.add_argument("--inputs", type=Path, metavar="INPUTS", help="folder of inputs (those of the test set)")
    command.add_argument(
        "--seed", type=int, default=0, help="seed of the noise, the same for each image (%(default)s)"
    )
    command.add_argument("--skip-existing", action="store_true", help="keep existing results, to resume")
    add_max_pixels(command)
    add_device(command)


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr evaluate`."""
    makes_results = options.model is not None or options.method is not None
    if makes_results:
        options.model = choose_model(parser, options)
    elif options.inputs is not None or options.skip_existing or options.paper:
        parser.error("arguments --inputs, --skip-existing and --paper: only with argument --model or --method")
    # Imported here, and torch with it, because --help and wrong arguments need neither.
    from .evaluate_run import evaluate

    return evaluate(parser, options, makes_results)
