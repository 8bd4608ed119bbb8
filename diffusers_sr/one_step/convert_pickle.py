"""The pickled dictionaries in which PiSA-SR and OSEDiff are published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..conversion.checkpoints import PathLike, read_pickle


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
        **dict.fromkeys(lists, ("a list of module names", _is_names)),
        **dict.fromkeys(ranks, ("a positive whole number", _is_rank)),
        **dict.fromkeys(state_dicts, ("a dictionary of tensors", _is_state_dict)),
    }
    wrong = [f"  {name} is missing" for name in kinds if name not in content]
    wrong += [f"  {name!r} is unexpected" for name in content if name not in kinds]
    wrong += [
        f"  {name} is not {kind}"
        for name, (kind, fits) in kinds.items()
        if name in content and not fits(content[name])
    ]
    if wrong:
        raise ValueError(f"{path} does not have the official layout:\n" + "\n".join(wrong))
    return content


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in value.items()
    )
