"""The work of `diffusers-sr upscale`, from files to enlarged files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from ..image.outputs import Plan
from ..image.partial import remove_left_over
from .call_arguments import call_arguments, check_arguments, fit_tiles
from .captioner import MEASURED, CaptionerError, load_captioner
from .enlarger import Enlarger
from .files import is_done, plan
from .memory_options import apply_memory_options
from .method_options import read_method_options
from .models import load_model
from .options import choose_device
from .photos import batches, read_photos
from .processes import Group, from_all, from_first, join_group, leave_group, own_device
from .progress import photo_bar
from .tally import Tally, summed
from .terminal import limit_pixels, report


def upscale(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run the command, and return its exit status."""
    limit_pixels(options.max_pixels)
    group = join_group()
    planned = _plan(parser, options, group)
    arguments = call_arguments(options) | read_method_options(parser, options)
    device = own_device(choose_device(parser, options.device), group)
    for folder in {target.parent for _, target in planned.outputs}:
        remove_left_over(folder)
    tally = Tally()
    if group.is_first:
        for path, note in planned.notes:
            report(path, note)
        for path, reason in planned.failures:
            tally.fail(path, reason)
    own = planned.outputs[group.rank :: group.size]
    waiting = [(source, target) for source, target in own if not (options.skip_existing and is_done(options, target))]
    tally.existing = len(own) - len(waiting)
    names_failures = len(planned.outputs) > 1
    enlarger: Enlarger | None = None
    try:
        with photo_bar(len(waiting), group) as bar:
            for batch in batches(read_photos(options, waiting, tally, bar), options.batch_size):
                if enlarger is None:  # if nothing is to be enlarged, nothing is loaded
                    arguments["upscale"] = batch[0].upscale
                    enlarger = _load(parser, options, arguments, device, group)
                    if enlarger is None:
                        return 1
                enlarger.enlarge(batch, tally)
                for work in batch:
                    if work.claim is not None:
                        work.claim.release()
                bar.update(len(batch))
    except KeyboardInterrupt:
        tally.summarise(names_failures)
        raise
    tally = summed(from_all(group, tally))
    if group.is_first:
        tally.summarise(names_failures)
    leave_group(group)
    return 1 if tally.failures else 0


def _plan(parser: argparse.ArgumentParser, options: argparse.Namespace, group: Group) -> Plan:
    """Plan in the first process alone: another might find results that it has written already."""
    planned: Plan | None = None
    try:
        if group.is_first:
            planned = plan(parser, options)
    finally:
        planned = from_first(group, planned)
    if planned is None:  # the first process has said why
        sys.exit(2)
    return planned


def _load(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    arguments: Mapping[str, Any],
    device: str,
    group: Group,
) -> Enlarger | None:
    """Load the model, and the captioner if there is one; say why and return None if one cannot be loaded."""
    pipeline = load_model(options, device)
    if pipeline is None:
        return None
    arguments = {**(pipeline.paper_settings if options.paper else {}), **arguments}
    check_arguments(parser, pipeline, options, arguments)
    apply_memory_options(parser, pipeline, options, device)
    fit_tiles(pipeline, options, arguments)
    if options.captioner == MEASURED:
        arguments = {**arguments, "captioner": MEASURED}
    elif options.captioner is not None:
        try:
            arguments = {**arguments, "captioner": load_captioner(options.captioner, device, options.dtype)}
        except CaptionerError as error:
            print(f"diffusers-sr: {error}", file=sys.stderr)
            return None
    return Enlarger(pipeline, options, arguments, is_shown=group.is_first)
