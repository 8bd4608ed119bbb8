r"""Measure models on photographs and compare them with bicubic enlargement, in a table for each set of photographs.

    python training/evaluate.py --data PHOTOS --list training/recipes/held_out_photos.txt \
        --degradation mild medium heavy --pairs REALSR SET14 --model one-step-small "cassr-small activation=lr"

The photographs of `--data` are made four times smaller and damaged, number i with seed `--first-seed` + i, so that
every run measures the same inputs. Those of `--pairs` are taken as they are: folders with the originals in `hr` and
the low-resolution images, of the same names, in `lr` (or in `test_HR` and `test_LR`, or `gt` and `lq`); a folder
without these holds originals, which are made four times smaller by the bicubic filter. A set has the name of its
degradation, or of its folder.

Results are rounded to 8 bits a channel before they are measured. It prints, as Markdown, the means over each set, and
how far each row is from the row `--baseline`, with 95 % bootstrap intervals over the photos. ST-LPIPS is measured
where the package `stlpips_pytorch` is installed. Photos that cannot be measured are reported and
counted out; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffusers_sr import load_pipeline
from diffusers_sr.data.lists import list_images, listed_names
from diffusers_sr.data.measured_pairs import DAMAGES, Pair, Sample, degraded_photos, stored_pairs
from diffusers_sr.evaluation.baselines import BASELINES, to_picture
from diffusers_sr.evaluation.rows import (
    Row,
    baseline_row,
    call_argument,
    model_and_arguments,
    pipeline_row,
    results_row,
)
from diffusers_sr.evaluation.stlpips import STLPIPS, load_stlpips
from diffusers_sr.evaluation.table import SMALLEST, intervals_table, mean, means_table, measure
from diffusers_sr.hub import DEFAULT_MODEL
from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.image.partial import whole_file
from diffusers_sr.image.pixels import resize
from diffusers_sr.training.script import run_script

SIDE = 512  # of the picture that the column of seconds is for


def options_of(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of photographs, which are degraded")
    parser.add_argument("--list", help="file that lists the photos of --data, one name per line; all by default")
    parser.add_argument(
        "--degradation", nargs="+", default=["heavy"], choices=DAMAGES, help="of --data: each makes a set (heavy)"
    )
    parser.add_argument("--pairs", nargs="+", type=Path, default=[], help="folders of pairs, or of originals")
    parser.add_argument(
        "--model",
        nargs="*",
        default=[DEFAULT_MODEL],
        help="models, as diffusers_sr.load_pipeline takes them, each one a row; it may be followed by arguments of "
        "its call, as in 'cassr-small activation=lr' (%(default)s)",
    )
    parser.add_argument(
        "--call",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the call of all models, a JSON value or a text; repeatable",
    )
    parser.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="NAME=FOLDER",
        help="pictures that another program has made of --inputs, in FOLDER/SET, each one a row",
    )
    parser.add_argument("--inputs", type=Path, help="folder for the low-resolution images, as INPUTS/SET/NAME.png")
    parser.add_argument("--baseline", default="bicubic", help="row that the others are compared with (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first photo's damage (%(default)s)")
    parser.add_argument("--limit", type=int, help="measure the first so many photos of each set")
    parser.add_argument("--max-size", type=int, help="crop longer sides to this many pixels around the centre")
    parser.add_argument("--device", default="cpu", help="torch device of the models (%(default)s)")
    parser.add_argument("--pictures", type=Path, help="folder for the inputs, and input, bicubic, result and original")
    parser.add_argument(
        "--zoom", type=int, default=1, help="times that pixels are repeated in --pictures (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="file for the measures of each image, written after each of them")
    parser.add_argument("--resume", action="store_true", help="do not measure again what the file --json holds")
    options = parser.parse_args(argv)
    if options.data is None and not options.pairs:
        parser.error("give photographs to measure: --data, --pairs, or both")
    if options.resume and options.json is None:
        parser.error("--resume needs the file --json")
    rows = [*BASELINES, *(text.partition("=")[0] for text in options.results), *options.model]
    if len(set(rows)) < len(rows):
        parser.error(f"two rows have the same name: {', '.join(rows)}")
    if options.baseline not in rows:
        parser.error(f"--baseline {options.baseline}: expected one of {', '.join(rows)}")
    return options


def sets_of(options: argparse.Namespace) -> dict[str, list[Sample]]:
    """List the photos of each set by its name.

    Raises:
        ValueError: if two sets have the same name, or a folder cannot be used.
    """
    sets: dict[str, list[Sample]] = {}
    for folder in options.pairs:
        name = folder.resolve().name
        if name in sets or (options.data is not None and name in options.degradation):
            raise ValueError(f"--pairs {folder}: there is another set of the name {name}; rename the folder.")
        sets[name] = stored_pairs(folder, SMALLEST, options.max_size)
    if options.data is not None:
        paths = list_images(options.data)
        if options.list is not None:
            names = listed_names(options.list, paths)
            paths = [path for path in paths if path.name in names]
        for name in options.degradation:
            sets[name] = degraded_photos(paths, DAMAGES[name], options.first_seed, SMALLEST, options.max_size)
    return {name: samples[: options.limit] for name, samples in sets.items()}


def rows_of(options: argparse.Namespace) -> dict[str, Callable[[], Row]]:
    """List the functions that load the rows, by their names."""
    rows: dict[str, Callable[[], Row]] = {name: partial(baseline_row, name) for name in BASELINES}
    for text in options.results:
        name, _, folder = text.partition("=")
        rows[name] = partial(results_row, Path(folder))
    for text in options.model:
        rows[text] = partial(load_model, text, dict(map(call_argument, options.call)), options.device)
    return rows


def load_model(text: str, arguments: Mapping[str, Any], device: str) -> Row:
    model, own = model_and_arguments(text)
    pipeline = load_pipeline(model, device=device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline_row(pipeline, {**arguments, **own})


def measure_photo(
    row: Row, set_name: str, sample: Sample, pair: Pair, st_lpips: STLPIPS | None
) -> tuple[Tensor, dict[str, Any]]:
    """Make a result and measure it."""
    height, width = pair.original.shape[-2:]
    start = time.perf_counter()
    result = row.enlarge(set_name, sample.name, pair.low, (height, width))
    seconds = time.perf_counter() - start
    result = (255 * result.clamp(0, 1)).round() / 255
    with torch.no_grad():
        values = measure(pair.original, result, st_lpips)
    return result, {**values, "seconds": seconds, "pixels": height * width}


def write_pictures(folder: Path, sample: Sample, row: str, pair: Pair, result: Tensor, zoom: int) -> None:
    """Write the input; and input, bicubic, result and original side by side, with pixels repeated `zoom` times."""
    folder.mkdir(parents=True, exist_ok=True)
    to_picture(pair.low).save(folder / f"{sample.name}_input.png")
    size = (pair.original.shape[-2], pair.original.shape[-1])
    nearest = torch.nn.functional.interpolate(pair.low, size)
    pictures = [to_picture(image) for image in (nearest, resize(pair.low, size), result, pair.original)]
    width, height = (zoom * side for side in pictures[0].size)
    together = Image.new("RGB", (4 * width + 3 * 8, height), "white")
    for number, picture in enumerate(pictures):
        together.paste(picture.resize((width, height), Image.Resampling.NEAREST), (number * (width + 8), 0))
    name = Path(row.replace("=", "-").replace(" ", "_")).name
    together.save(folder / f"{sample.name}_{name}.jpg", quality=90, subsampling=0)  # colours are to be judged, too


def first_results(options: argparse.Namespace, has_st_lpips: bool) -> dict[str, Any]:
    """Give what has been measured before if `--resume` asks for it, or else nothing.

    Raises:
        ValueError: if that was measured with other options.
    """
    settings = {name: getattr(options, name) for name in ("data", "list", "first_seed", "max_size", "call")}
    settings["st_lpips"] = has_st_lpips
    if options.resume and options.json.exists():
        results: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8"))
        if results["settings"] != settings:
            raise ValueError(f"{options.json} was measured with {results['settings']}: resume it with these settings.")
        return results
    return {"settings": settings, "megabytes": {}, "sets": {}}


def measure_all(
    options: argparse.Namespace, sets: dict[str, list[Sample]], st_lpips: STLPIPS | None, results: dict[str, Any]
) -> list[Path]:
    """Measure each row on each photo, except for what the results hold already, and add it to them.

    Returns:
        The photos that cannot be measured, each of which has been reported.
    """
    unmeasured: list[Path] = []
    for row_name, load in rows_of(options).items():
        row: Row | None = None
        for set_name, samples in sets.items():
            measured = results["sets"].setdefault(set_name, {}).setdefault(row_name, {})
            for sample in samples:
                if sample.name in measured or sample.path in unmeasured:
                    continue
                try:
                    pair = sample.read()
                except ImageFileError as error:
                    print(f"{sample.path}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
                    unmeasured.append(sample.path)
                    continue
                row = row or load()
                result, measured[sample.name] = measure_photo(row, set_name, sample, pair, st_lpips)
                results["megabytes"][row_name] = row.megabytes
                if options.inputs is not None:
                    (options.inputs / set_name).mkdir(parents=True, exist_ok=True)
                    to_picture(pair.low).save(options.inputs / set_name / f"{sample.name}.png")
                if options.pictures is not None and row_name not in BASELINES:
                    folder = options.pictures if len(sets) == 1 else options.pictures / set_name
                    write_pictures(folder, sample, row_name, pair, result, options.zoom)
                if options.json is not None:
                    with whole_file(options.json) as path:
                        path.write_text(json.dumps(results, indent=1) + "\n")
            if measured:
                line = f"{set_name}, {row_name}: HaarPSI {mean([*measured.values()], 'HaarPSI ↑'):.3f}"
                print(line, file=sys.stderr, flush=True)
    return unmeasured


def main(argv: list[str] | None = None) -> None:
    """Run the command line.

    Raises:
        ImageFileError: if a result of another program cannot be used; and at the end, if photos cannot be measured.
    """
    options = options_of(argv)
    sets = sets_of(options)
    try:
        st_lpips = load_stlpips()
    except ModuleNotFoundError as error:
        print(f"{error} It is not measured.", file=sys.stderr, flush=True)
        st_lpips = None
    results = first_results(options, st_lpips is not None)
    unmeasured = measure_all(options, sets, st_lpips, results)
    for set_name, samples in sets.items():
        if names := [sample.name for sample in samples if sample.path not in unmeasured]:
            print_tables(set_name, names, results, options)
    if unmeasured:
        count = len({sample.path for samples in sets.values() for sample in samples})
        named = ", ".join(map(str, unmeasured[:5])) + (", …" if len(unmeasured) > 5 else "")
        raise ImageFileError(f"{len(unmeasured)} of {count} photos could not be measured: {named}")


def print_tables(set_name: str, names: list[str], results: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the means of a set, and the differences from the baseline."""
    measured = results["sets"][set_name]
    rows = {row: {name: measured[row][name] for name in names} for row in rows_of(options)}
    megabytes = {row: size for row in rows if (size := results["megabytes"][row]) is not None}
    seconds = {}
    for row in megabytes:
        spent, pixels = (sum(image[key] for image in rows[row].values()) for key in ("seconds", "pixels"))
        seconds[row] = f"{spent / pixels * SIDE**2:.2f}"
    more = {f"s a {SIDE}²": seconds, "MB": {row: f"{size:.1f}" for row, size in megabytes.items()}}
    print(means_table(f"{set_name}: {len(names)} photos", {row: [*each.values()] for row, each in rows.items()}, more))
    print(f"\n{intervals_table(f'less {options.baseline}', rows, options.baseline)}\n", flush=True)


if __name__ == "__main__":
    run_script(main)
