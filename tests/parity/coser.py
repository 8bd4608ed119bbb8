"""CoSeR on weights in the official layout. What INPUTS, an npz file, belongs to is seen from the names in it.

Networks: `coser_networks`. Q-Former and SRResNet: `coser_cognition`. One-hot attention: `coser_one_hot`. Transformer
with all-in-attention: `coser_transformer`. Fusion layer of the CFW decoder: `coser_cfw`. SCEdit's tuners, which are
CasSR's: `cassr`. Each says what it is given, and what it gives.

The weights of all but the networks are `sd.<official name>` of an npz file: of INPUTS itself; where it has none, of
the file of that name in WEIGHTS_DIR; where it has none either, of the one file in WEIGHTS_DIR whose weights are of
this kind. A `config.json` lies beside them, or in WEIGHTS_DIR.

Where INPUTS is a folder, it is every file in it that holds inputs; with several of them, outputs are
`<file>.<name>`, without the file's suffix.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.parity import cassr, coser_cfw, coser_cognition, coser_networks, coser_one_hot, coser_transformer
from tests.parity.arrays import Tensors, array_names, read_arrays, read_state_dict, weight_names


class Part(NamedTuple):
    """A part of CoSeR with weights in one file.

    Args:
        inputs: the names of what it is given.
        fits: whether weights of these official names are of this part, and for these inputs.
        outputs: of its weights, inputs and `config.json`.
        config: what it needs of `config.json`.
        numbered: what the names of further inputs begin with, of which there may be any number.
    """

    inputs: tuple[str, ...]
    fits: Callable[[set[str], Tensors], bool]
    outputs: Callable[[Tensors, Tensors, dict[str, Any]], Tensors]
    config: tuple[str, ...] = ()
    numbered: str | None = None


def has_weight(name: str) -> Callable[[set[str], Tensors], bool]:
    return lambda names, given: name in names


PARTS = (
    Part(coser_one_hot.INPUTS, has_weight("to_q.weight"), coser_one_hot.one_hot_outputs, ("heads",)),
    Part(coser_transformer.INPUTS, coser_transformer.fits, coser_transformer.transformer_outputs, ("heads",)),
    Part(coser_cognition.QFORMER_INPUTS, has_weight("query_tokens"), coser_cognition.qformer_outputs),
    Part(coser_cognition.SRRESNET_INPUTS, has_weight("conv_first.weight"), coser_cognition.srresnet_outputs),
    Part(coser_cfw.INPUTS, has_weight("encode_enc_1.conv1.weight"), coser_cfw.fusion_outputs),
    Part(cassr.INPUTS, has_weight("pre_hint_blocks.0.weight"), cassr.tuner_outputs, cassr.CONFIG, cassr.SKIP),
)
ALL_INPUTS = (coser_networks.INPUTS, *(part.inputs for part in PARTS))


def forward(weights: Path, inputs: Path, dtype: torch.dtype, cases: Path | None) -> Tensors:
    candidates = sorted(inputs.glob("*.npz")) if inputs.is_dir() else [inputs]
    files = [path for path in candidates if any(array_names(path).issuperset(names) for names in ALL_INPUTS)]
    if not files:
        known = "\n  ".join(", ".join(names) for names in ALL_INPUTS)
        raise ValueError(f"{inputs} has not the inputs of any part of CoSeR: give all of one of\n  {known}")
    if len(files) == 1:
        return file_outputs(weights, files[0], dtype)
    return {
        f"{path.stem}.{name}": tensor for path in files for name, tensor in file_outputs(weights, path, dtype).items()
    }


def file_outputs(weights: Path, inputs: Path, dtype: torch.dtype) -> Tensors:
    names = array_names(inputs)
    if names.issuperset(coser_networks.INPUTS):
        return coser_networks.network_outputs(weights, read_arrays(inputs, dtype, coser_networks.INPUTS), dtype)
    part = next(part for part in PARTS if names.issuperset(part.inputs))
    given = read_arrays(inputs, dtype, [*part.inputs, *numbered_inputs(part, names)])
    source = find_weights(part, given, weights, inputs)
    config = read_config([source.parent / "config.json", weights / "config.json"], part.config)
    return part.outputs(read_state_dict(source, dtype), given, config)


def numbered_inputs(part: Part, names: set[str]) -> list[str]:
    """List those of `part.numbered` among the names in a file: `skip_1`, but not `skip_new_1`, which is an output."""
    if part.numbered is None:
        return []
    return [name for name in names if name.removeprefix(part.numbered).isdigit()]


def find_weights(part: Part, given: Tensors, weights: Path, inputs: Path) -> Path:
    for path in (inputs, weights / inputs.name):
        if path.is_file() and part.fits(weight_names(path), given):
            return path
    found = [path for path in sorted(weights.glob("*.npz")) if part.fits(weight_names(path), given)]
    if len(found) != 1:
        raise ValueError(
            f"The weights for {inputs} may be in {[path.name for path in found]} of {weights}, expected one file: put "
            "them into INPUTS as `sd.<official name>`, or name INPUTS like the file in WEIGHTS_DIR that has them."
        )
    return found[0]


def read_config(places: list[Path], needed: tuple[str, ...]) -> dict[str, Any]:
    path = next((place for place in places if place.is_file()), None)
    config = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    if missing := [name for name in needed if name not in config]:
        raise ValueError(f"Shapes do not show {missing}: add them to {path or places[0]}, a dictionary in JSON.")
    return config
