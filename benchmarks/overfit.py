"""Show that every training stage can learn eight tiny images by heart: its loss before and after some hundred steps.

    python benchmarks/overfit.py [STAGE ...]

The models are those of the tests: real classes, random and tiny. Where Stable Diffusion is frozen, it is random too.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.training.stages import STAGES, build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"one of {', '.join(STAGES)}; all by default")
    parser.add_argument("--steps", type=int, help="optimiser steps (400; 1,500 for a single-step picture)")
    options = parser.parse_args()
    if unknown := sorted(set(options.stages) - set(STAGES)):
        parser.error(f"there is no stage {', '.join(unknown)}: choose from {', '.join(STAGES)}")
    print("| stage | loss before | after | times lower | seconds |\n|---|---:|---:|---:|---:|")
    for name in options.stages or STAGES:
        stage = build(name)
        before, start = stage.loss(), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            stage.fit(Path(folder), options.steps or (1500 if name.endswith("adversarial") else 400))
        after = stage.loss()
        seconds = time.perf_counter() - start
        print(f"| {name} | {before:.4f} | {after:.4f} | {before / after:.1f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
