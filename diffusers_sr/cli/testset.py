"""`diffusers-sr testset`: make the pairs that papers measure on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..evaluation.protocols import PROTOCOLS, PairSet
from .parser import Commands
from .terminal import add_max_pixels, limit_pixels

TEST_SETS: dict[str, PairSet] = {one.made_by: one for protocol in PROTOCOLS.values() for one in protocol.data}

DESCRIPTION = """\
Make the pairs of a test set from the original photographs, or check a test set that is made.

SOURCE is, for each TEST_SET:
  realsr               the folders Canon/Test/4 and Nikon/Test/4 of RealSR
  drealsr              the folder Test_x4 of DRealSR
  div2k-val            DIV2K_valid_HR; 30 crops of each photo are degraded by Real-ESRGAN's recipe
  div2k-val-sharpened  the same, with sharpened originals and milder second blurs
  imagenet             photos of 512 pixels on each side, which are degraded by Real-ESRGAN's recipe

Inputs of 128 pixels are written to OUTPUT/test_LR, their originals of 512 pixels to OUTPUT/test_HR. The same photos
and seed always give the same pairs. Published numbers on degraded photos are those of other degradations: to compare
with them, take StableSR's test sets (Hub data set Iceclear/StableSR-TestSets). Without OUTPUT, a SOURCE that is one of
them, or was made by this command, is checked and left as it is; `evaluate` takes it for ORIGINALS.

The exit status is 0 if all went well, 1 if something failed, 2 if the arguments make no sense, and 130 after an
interruption.
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "testset",
        help="make the pairs that papers measure on",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("test_set", choices=tuple(TEST_SETS), metavar="TEST_SET", help=", ".join(TEST_SETS))
    command.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="folders of photographs")
    command.add_argument("-o", "--output", type=Path, metavar="OUTPUT", help="folder to write, which must not exist")
    command.add_argument("--seed", type=int, default=0, help="seed of crops and degradations (%(default)s)")
    add_max_pixels(command)


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr testset`."""
    limit_pixels(options.max_pixels)
    from ..image.pairs import parts_of

    parts = parts_of(options.sources[0])
    if options.output is None and (parts is None or len(options.sources) > 1):
        parser.error("the following arguments are required: -o/--output; only a single test set is checked without it")
    if options.output is not None and options.output.exists():
        parser.error(f"argument -o/--output: {options.output} exists: choose another name")
    try:
        if options.output is None:
            assert parts is not None
            pairs = _check(*parts)
        else:
            pairs = _make(options, options.sources if parts is None else parts)
    except (ValueError, OSError) as error:
        print(f"diffusers-sr: {error}", file=sys.stderr)
        return 1
    whole = TEST_SETS[options.test_set]
    print(f"Pairs: {pairs}" + ("" if pairs == whole.pairs else f"; the whole of {whole.title} has {whole.pairs}"))
    return 0


def _make(options: argparse.Namespace, sources: Sequence[Path]) -> int:
    from tqdm.auto import tqdm

    from ..data.benchmark_pairs import make_pairs, plan_pairs

    planned = plan_pairs(options.test_set, sources)
    bar = tqdm(planned, desc="pairs", unit="pair", dynamic_ncols=True, disable=None)
    make_pairs(options.test_set, bar, options.output, options.seed)
    return len(planned)


def _check(inputs: Path, originals: Path) -> int:
    from ..data.benchmark_pairs import SCALE
    from ..evaluation.pairs import input_pairs

    pairs, factor = input_pairs(inputs, originals)
    if factor != SCALE:
        raise ValueError(f"{originals}: are {float(factor):g} times as large as {inputs}, not {SCALE} times")
    return len(pairs)
