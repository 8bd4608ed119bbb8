"""`python -m tests.fuzz --files 10000 --seed 0`: damage files of 18 kinds, and read each with every reader.

The exit status is 1 if anything but an ImageFileError or ValueError was raised, a file took more than 20 seconds, or
the process more than 2 GB. `--first NUMBER --files 1` repeats a single file. Pillow's libraries write to standard
error what they think of the files; the report is on standard output.
"""

from __future__ import annotations

import argparse
import sys

from diffusers.utils import logging

from .run import run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10000, help="number of files (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="what the damage is drawn from (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first file (%(default)s)")
    options = parser.parse_args()
    logging.set_verbosity_error()
    report = run(options.files, options.seed, options.first)
    for each in report.tracebacks:
        print(each)
    for name in report.hangs:
        print(f"hangs: {name}")
    read = ", ".join(f"{name} {count}" for name, count in sorted(report.read.items()))
    print(f"{report.files} files; read all the same: {read or 'none'}")
    print(f"{len(report.tracebacks)} tracebacks, {len(report.hangs)} hangs")
    print(f"slowest: {report.slowest[0]:.2f} seconds, {report.slowest[1]}")
    print(f"peak of memory: {report.peak[0] / 1e9:.2f} GB, {report.peak[1]}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
