"""The earlier way to write shards: `python -m diffusers_sr.data.prepare` runs the script `training/prepare.py`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "training" / "prepare.py"


def main() -> None:
    """Run the script with the arguments of the command line."""
    if not SCRIPT.is_file():
        sys.exit("Shards are written by training/prepare.py: run it in a checkout of the repository.")
    print("python -m diffusers_sr.data.prepare is now python training/prepare.py.", file=sys.stderr)
    runpy.run_path(str(SCRIPT), run_name="__main__")


if __name__ == "__main__":
    main()
