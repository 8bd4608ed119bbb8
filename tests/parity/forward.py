"""Run this project's modules on weights in an official layout, for comparison with what the official code computed.

    python tests/parity/forward.py METHOD WEIGHTS_DIR INPUTS OUTPUT [--dtype float64]

Run it from the repository root. It writes OUTPUT, a safetensors file with what the method computed under the names
that the method's module beside this file documents, as it does what WEIGHTS_DIR and INPUTS hold. It reads no expected
output, also where INPUTS holds some.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.parity import addsr, coser, one_step, one_step_hypir, seesr, xpsr

METHODS: dict[str, Callable[[Path, Path, torch.dtype, Path | None], dict[str, torch.Tensor]]] = {
    "addsr": addsr.forward,
    "cassr": coser.forward,  # what there is of CasSR lies among CoSeR's vectors
    "coser": coser.forward,
    "gdpo": partial(one_step.forward, "gdpo"),
    "hypir": one_step_hypir.forward,
    "omgsr": partial(one_step.forward, "omgsr"),
    "osediff": partial(one_step.forward, "osediff"),
    "pisa": partial(one_step.forward, "pisa"),
    "seesr": seesr.forward,
    "xpsr": xpsr.forward,
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("weights", type=Path, metavar="WEIGHTS_DIR")
    parser.add_argument("inputs", type=Path, metavar="INPUTS")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--cases", type=Path, help="what else a sampling loop is given (default: as the method says)")
    options = parser.parse_args(arguments)
    with torch.no_grad():
        outputs = METHODS[options.method](options.weights, options.inputs, DTYPES[options.dtype], options.cases)
    save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, options.output)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, SafetensorError) as error:
        sys.exit(f"forward.py: {error}")
