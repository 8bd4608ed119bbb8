"""The pickled dictionaries in which PiSA-SR and OSEDiff are published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..conversion.checkpoints import PathLike, read_pickle

_SHOWN = 5
"""How many unexpected entries an error names: the files of other models have hundreds."""


def read_official_pickle(
    path: PathLike, lists: Sequence[str], ranks: Sequence[str], state_dicts: Sequence[str]
) -> dict[str, Any]:
    """Read a pickle that has lists of module names, LoRA ranks and state dicts, and nothing else. No code is run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or has entries that are missing, unexpected or of another kind.
    """
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dictionary with {sorted(state_dicts)}.")
    kinds: dict[str, tuple[str, Callable[[Any], bool]]] = {
        **dict.fromkeys(lists, ("a list of module names", is_names)),
        **dict.fromkeys(ranks, ("a positive whole number", is_rank)),
        **dict.fromkeys(state_dicts, ("a dictionary of tensors", _is_state_dict)),
    }
    wrong = [f"  {name} is missing" for name in kinds if name not in content]
    unexpected = [f"  {name!r} is unexpected" for name in content if name not in kinds]
    more = len(unexpected) - _SHOWN
    wrong += [*unexpected[:_SHOWN], f"  … and {more} more are unexpected"] if more > 0 else unexpected
    wrong += [
        f"  {name} is not {kind}"
        for name, (kind, fits) in kinds.items()
        if name in content and not fits(content[name])
    ]
    if wrong:
        raise ValueError(f"{path} does not have the official layout:\n" + "\n".join(wrong))
    return content


def is_names(value: Any) -> bool:
    """Whether a value is a list of names."""
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


def is_rank(value: Any) -> bool:
    """Whether a value is a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in value.items()
    )
