"""The work of `diffusers-sr upscale`, from files to enlarged files."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..image.decoding import ImageFileError
from ..image.partial import remove_left_over
from ..image.pixels import output_size
from ..image.reader import Photo, read_photo
from ..image.transparency import under_transparency
from ..image.writer import check_output, prepare_folder, unkept, write_photo
from ..pipeline import SuperResolutionPipeline
from .call_arguments import call_arguments, check_arguments
from .captioner import MEASURED, CaptionerError, load_captioner, prompts_of
from .enlarge import enlarge
from .files import is_done, plan
from .method_options import read_method_options
from .models import load_model
from .options import choose_device
from .sizes import factor_for
from .tally import Tally
from .terminal import limit_pixels, report


class Work(NamedTuple):
    """A photo to enlarge."""

    source: Path
    target: Path
    photo: Photo
    upscale: float


def upscale(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run the command, and return its exit status."""
    limit_pixels(options.max_pixels)
    outputs, failures, notes = plan(parser, options)
    arguments = call_arguments(options) | read_method_options(parser, options)
    device = choose_device(parser, options.device)
    for folder in {target.parent for _, target in outputs}:
        remove_left_over(folder)
    for path, note in notes:
        report(path, note)
    tally = Tally()
    for path, reason in failures:
        tally.fail(path, reason)
    pipeline: SuperResolutionPipeline | None = None
    try:
        for work in _photos(options, outputs, tally):
            if pipeline is None:
                pipeline = load_model(options, device)
                if pipeline is None:
                    return 1
                check_arguments(parser, pipeline, options, {**arguments, "upscale": work.upscale})
                if options.captioner is not None:
                    is_measured = options.captioner == MEASURED
                    arguments["captioner"] = (
                        MEASURED if is_measured else load_captioner(options.captioner, device, options.dtype)
                    )
            _enlarge(pipeline, work, options, arguments, tally)
    except CaptionerError as error:
        print(f"diffusers-sr: {error}", file=sys.stderr)
        return 1
    tally.summarise(names_failures=len(outputs) > 1)
    return 1 if tally.failures else 0


def _photos(options: argparse.Namespace, outputs: Sequence[tuple[Path, Path]], tally: Tally) -> Iterator[Work]:
    """Read the photos that have to be enlarged, one after another, and make the folders of their results."""
    prepared: set[Path] = set()
    for source, target in outputs:
        if options.skip_existing and is_done(target):
            tally.existing += 1
            continue
        try:
            photo = read_photo(source)
            factor = factor_for(options, photo.image.size)
            if factor is None:
                tally.large += 1
                report(source, f"has {photo.image.width}x{photo.image.height} pixels already: it is left alone")
                continue
            height, width = output_size(photo.image.height, photo.image.width, factor)
            check_output(photo, target, width, height)
            if target.parent not in prepared:
                prepare_folder(target.parent)
                prepared.add(target.parent)
        except (ImageFileError, ValueError, OSError) as error:
            tally.fail(source, str(error))
            continue
        for note in [*photo.notes, *unkept(photo, target, width, height)]:
            report(source, note)
        yield Work(source, target, photo, factor)


def _enlarge(
    pipeline: SuperResolutionPipeline,
    work: Work,
    options: argparse.Namespace,
    arguments: dict[str, Any],
    tally: Tally,
) -> None:
    """Enlarge a photo and write the result."""
    start = time.perf_counter()
    photo = work.photo
    shown = photo.image if photo.alpha is None else under_transparency(photo.image, photo.alpha)
    own: dict[str, Any] = {"upscale": work.upscale}
    if options.prompts is not None:
        own["captioner"] = prompts_of(work.source, options.prompts)
    try:
        (image,) = enlarge(pipeline, [shown], [work.source.name], options.seed, arguments | own)
        write_photo(work.target, image, photo, options.quality)
    # A ValueError is the pipeline's, about its arguments for this image.
    except (ValueError, OSError) as error:
        tally.fail(work.source, str(error))
    else:
        tally.seconds.append(time.perf_counter() - start)
