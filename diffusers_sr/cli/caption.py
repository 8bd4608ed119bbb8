"""`diffusers-sr caption`: describe the photographs of a folder."""

from __future__ import annotations

import argparse
import functools
import sys

from .common import CaptionerError, choose_device, is_out_of_memory, load_captioner, report


def caption(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr caption`."""
    if options.names and options.captioner != "measured":
        parser.error("argument --names: not allowed with another --captioner than measured, which says what it sees")
    device = choose_device(parser, options.device)
    from ..xpsr.caption_folder import caption_folder, measure_folder
    from ..xpsr.captioner import captioner_settings

    load = functools.cache(load_captioner)  # where all is described, nothing is loaded
    try:
        if options.captioner == "measured":
            done = measure_folder(
                options.folder,
                options.output,
                layout=options.layout,
                high_level_from_names=options.names,
                report=report,
            )
        else:
            done = caption_folder(
                options.folder,
                options.output,
                lambda images: load(options.captioner, device, options.dtype, batch_size=options.batch_size)(images),
                captioner_settings(options.captioner),
                layout=options.layout,
                batch_size=options.batch_size,
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
    print(f"Images described: {done.described}, described before: {done.kept}")
    return 1 if done.unreadable else 0
