"""`python -m tests.fuzz --files 10000 --seed 0`: damage files of 24 kinds, and give them to whatever reads images.

Each file is read in this process by every reader, and written as a result with all that came with it (the way
"readers"); of these files one of three is hostile: bombs, sizes and lengths that lie, circles of directories, metadata
that is none, wrong suffixes. And whole folders of damaged files, each with a whole photo, go through the command line
and the trainers as programs of their own: `upscale`, `caption`, `prepare`, `train_autoencoder`; a part of the folders
through `train_seesr`, `evaluate`, and `references` (as the reference of another photo), too.

The exit status is 1 after any finding: anything but an ImageFileError or ValueError from a reader; a result that
cannot be written, or not be read again, or leaves an unfinished file; of a program, a traceback, another exit status
than is documented, a damaged file without a result and its one line, a result that is not a whole picture, a whole
photo without a result, a file that is left unfinished; more than 20 seconds for a file; or more than 2 GB. What a
program with a finding read and wrote is kept. `--first NUMBER --files 1` repeats a single file. Pillow's libraries
write to standard error what they think of the files; the report is on standard output.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from diffusers.utils import logging

from .processes import run_routes
from .routes import ROUTES
from .run import run

WAYS = ("readers", *ROUTES)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10000, help="number of files (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="what the damage is drawn from (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first file (%(default)s)")
    parser.add_argument("--through", nargs="+", choices=WAYS, default=WAYS, help="the ways to take (all)")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-findings"), help="folder for what led to findings (%(default)s)"
    )
    options = parser.parse_args()
    logging.set_verbosity_error()
    failed = False
    if "readers" in options.through:
        failed = _read(options.files, options.seed, options.first)
    routes = [name for name in options.through if name != "readers"]
    if routes:
        report = run_routes(routes, options.files, options.seed, options.first, options.keep)
        for each in report.findings:
            print(each)
        print(report.table())
        failed = failed or bool(report.findings)
    return 1 if failed else 0


def _read(files: int, seed: int, first: int) -> bool:
    report = run(files, seed, first)
    for each in report.tracebacks:
        print(each)
    for name in report.hangs:
        print(f"hangs: {name}")
    read = ", ".join(f"{name} {count}" for name, count in sorted(report.read.items()))
    print(f"{report.files} files; read all the same: {read or 'none'}")
    print(f"{len(report.tracebacks)} tracebacks, {len(report.hangs)} hangs")
    print(f"slowest: {report.slowest[0]:.2f} seconds, {report.slowest[1]}")
    print(f"peak of memory: {report.peak[0] / 1e9:.2f} GB, {report.peak[1]}", flush=True)
    return report.failed


if __name__ == "__main__":
    sys.exit(main())
