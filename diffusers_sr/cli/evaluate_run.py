"""The work of `diffusers-sr evaluate`, from folders to tables."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from ..evaluation.comparison import differences
from ..evaluation.pairs import input_pairs, originals_in, result_pairs, title_of
from ..evaluation.protocols import DEFAULT, PROTOCOLS, data_set
from ..evaluation.report import comparison, latex, markdown, model_index, notes, per_picture
from ..evaluation.scoring import Meter, Scores
from ..image.decoding import upright_size
from ..image.formats import images_in
from ..image.pairs import Pair, PairsError, parts_of
from ..image.partial import whole_file
from . import upscale
from .options import choose_device
from .parser import CommandParser
from .terminal import limit_pixels


def evaluate(parser: argparse.ArgumentParser, options: argparse.Namespace, makes_results: bool) -> int:
    """Run the command, and return its exit status."""
    limit_pixels(options.max_pixels)
    device = choose_device(parser, options.device)
    try:
        if makes_results:
            inputs, factor = _inputs(parser, options)
            if status := _enlarge(options, inputs, factor):
                return status
        rows, dataset = _measure(options, device)
        _report(options, rows, dataset)
    except (ValueError, OSError) as error:  # files, and what is said about them
        print(f"diffusers-sr: {error}", file=sys.stderr)
        return 1
    return 0


def _inputs(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[Path, Fraction]:
    """Find the inputs, and the factor to enlarge them by.

    Raises:
        PairsError: if inputs and originals do not match.
    """
    inputs = options.inputs
    if inputs is None:
        parts = parts_of(options.originals)
        if parts is None:
            parser.error(f"argument --inputs: required, as {options.originals} is not a test set, which has its own")
        inputs = parts[0]
    if options.results.is_dir() and images_in(options.results) and not options.skip_existing:
        parser.error(f"there are pictures in {options.results}: choose another folder, or keep them: --skip-existing")
    return inputs, input_pairs(inputs, originals_in(options.originals))[1]


def _enlarge(options: argparse.Namespace, inputs: Path, factor: Fraction) -> int:
    """Make the results as `diffusers-sr upscale` does."""
    parser = argparse.ArgumentParser(prog="diffusers-sr")
    upscale.add_parser(parser.add_subparsers(parser_class=CommandParser))
    arguments = ["--model", options.model, "--upscale", str(float(factor)), "--seed", str(options.seed)]
    for name in ("method", "device", "dtype", "max_pixels"):
        if (value := getattr(options, name)) is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    arguments += ["--skip-existing"] if options.skip_existing else []
    arguments += ["--paper"] if options.paper else []
    files = ["--format", "png", "-o", str(options.results), "--", str(inputs)]
    return upscale.run(parser, parser.parse_args(["upscale", *arguments, *files]))


def _measure(options: argparse.Namespace, device: str) -> tuple[dict[str, Scores], str]:
    """Measure one folder, or two, and name the photographs."""
    originals = originals_in(options.originals)
    folders = {options.name or _name(options): options.results}
    if options.against is not None:
        other = options.against.absolute().name
        folders[f"{other} (--against)" if other in folders else other] = options.against
    pairs, problems = {}, []
    for name, folder in folders.items():
        try:
            pairs[name] = result_pairs(folder, originals)
        except PairsError as error:
            problems += error.problems
    if problems:
        raise PairsError(problems)
    dataset = title_of(originals)
    if options.protocol is not None:
        sizes = [upright_size(pair.original) for pair in next(iter(pairs.values()))]
        found = data_set(options.protocol, sizes)
        dataset = dataset if found is None else found.title
    meter = Meter(PROTOCOLS.get(options.protocol, DEFAULT), device)
    return {name: meter.measure(each, _bar(name)) for name, each in pairs.items()}, dataset


def _report(options: argparse.Namespace, rows: dict[str, Scores], dataset: str) -> None:
    protocol = PROTOCOLS.get(options.protocol, DEFAULT)
    (name, scores), *others = rows.items()
    print((latex if options.latex else markdown)(protocol.measures, rows))
    print(f"\n{notes(protocol, scores)}")
    for other, theirs in others:
        print(f"\n{comparison(name, other, differences(protocol.measures, scores, theirs))}")
    if options.csv is not None:
        _write(options.csv, per_picture(protocol.measures, rows))
    if options.json is not None:
        index = model_index(name, dataset, protocol, scores)
        _write(options.json, json.dumps(index, indent=2, ensure_ascii=False) + "\n")


def _name(options: argparse.Namespace) -> str:
    path: Path = options.results if options.model is None else Path(options.model)
    return path.absolute().name


def _bar(name: str) -> Callable[[Sequence[Pair]], Iterable[Pair]]:
    """Show how many pictures of a folder are measured, where standard error is a terminal."""
    return partial(tqdm, desc=name, unit="picture", dynamic_ncols=True, disable=None)


def _write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
