"""Print how far each stage of this package is from recordings of the official scripts.

    python -m tests.parity.pictures FOLDER [--method METHOD] [--case CASE]

Run it from the repository root. The exit status is 1 if a difference is larger than it may be. A case takes about a
minute on one CPU core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.parity.pictures.compare import differences
from tests.parity.pictures.recordings import recordings
from tests.parity.pictures.weights import load_pipeline


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="<method>/weights and <method>/cases")
    parser.add_argument("--method", choices=("seesr", "xpsr", "coser"), help="only this method")
    parser.add_argument("--case", help="only cases of this name")
    options = parser.parse_args(arguments)
    found = recordings(options.folder, [options.method] if options.method else ["seesr", "xpsr", "coser"])
    found = [recording for recording in found if options.case in (None, recording.folder.name)]
    if not found:
        parser.error(f"there is no such recording in {options.folder}")
    print("| recording | stage | difference | limit |\n|---|---|---|---|")
    pipelines = {}
    is_large = False
    for recording in found:
        if recording.method not in pipelines:
            pipelines[recording.method] = load_pipeline(recording.method, recording.weights)
        for each in differences(recording, pipelines[recording.method]):
            is_large |= not each.is_small
            mark = "" if each.is_small else " **too large**"
            name = f"{recording.method} {recording.folder.name}"
            print(f"| {name} | {each.stage} | {each.value:.2g}{mark} | {each.limit:g} |", flush=True)
    return int(is_large)


if __name__ == "__main__":
    sys.exit(main())
