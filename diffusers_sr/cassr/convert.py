"""Convert SCEdit's controllers, as published by scepter, to a folder of this package's adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights

from ..conversion.checkpoints import PathLike, check_keys, new_folder, read_state_dict
from .activation import SCEditAdapter

# Where the weights are in a published folder, such as `canny_control`.
WEIGHTS = ("pytorch_model.bin", "0_SwiftSCETuning/pytorch_model.bin")
# In the encoder of every Stable Diffusion: two residual blocks per level, and the layer before them.
SKIPS_PER_LEVEL = 3


def convert(checkpoint: PathLike, output: PathLike) -> None:
    """Write a folder for `SCEditAdapter.from_pretrained` from a controller trained with scepter.

    Args:
        checkpoint: `pytorch_model.bin`, or a folder that contains it, directly or under `0_SwiftSCETuning`.
        output: folder to write, which must not exist or must be empty; it appears once it is complete.

    Raises:
        FileExistsError: if `output` exists and is not an empty folder.
        FileNotFoundError: if there is no such file.
        ValueError: if keys are missing, unexpected or mis-shaped, or if the file is damaged or not a controller.
    """
    path = find_weights(checkpoint)
    with new_folder(output) as folder:
        scedit_from_official(read_state_dict(path), path).save_pretrained(folder)


def find_weights(checkpoint: PathLike) -> Path:
    """Find the file with the weights in a published folder; a path that is not a folder is returned unchanged.

    Raises:
        FileNotFoundError: if the folder has none.
    """
    path = Path(checkpoint)
    if not path.is_dir():
        return path
    for name in WEIGHTS:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"There is neither {WEIGHTS[0]} nor {WEIGHTS[1]} in {path}.")


def scedit_from_official(
    state_dict: Mapping[str, torch.Tensor],
    source: PathLike = "the checkpoint",
    downsamples: Sequence[int] | None = None,
) -> SCEditAdapter:
    """Build the adapter from a state dict of scepter's `CSCTuners`. Its sizes are read off the shapes.

    Args:
        state_dict: weights whose keys may have the prefix "0." or "model.0.", as published.
        source: what errors call the checkpoint.
        downsamples: as in `SCEditAdapter`, since the shapes do not show them; by default those of Stable Diffusion 1,
            2 and XL.

    Returns:
        The adapter in evaluation mode, in the weights' dtype, not attached to anything.

    Raises:
        ValueError: if keys are missing, unexpected or mis-shaped; all are listed.
    """
    official = {re.sub(r"^(model\.)?(0\.)?", "", key): tensor for key, tensor in state_dict.items()}
    hint_convs = _numbers(official, r"pre_hint_blocks\.(\d+)\.weight")
    dense_hints = _numbers(official, r"dense_hint_blocks\.(\d+)\.1\.weight")
    tuners = _numbers(official, r"lsc_tuner_blocks\.(\d+)\.tuner_op\.ln1\.weight")
    if not hint_convs or not dense_hints or not tuners:
        raise ValueError(
            f"{source} is not a controller of SCEdit: it does not have all of pre_hint_blocks.*, dense_hint_blocks.* "
            "and lsc_tuner_blocks.*."
        )
    # The first convolution, and then every second one, which has a stride.
    strided = [f"pre_hint_blocks.{number}.weight" for number in range(0, hint_convs[-1] + 1, 4)]
    hints = [f"dense_hint_blocks.{number}.1.weight" for number in range(dense_hints[-1] + 1)]
    if missing := [key for key in (*strided, *hints) if key not in official]:
        lines = "\n  ".join(missing)
        raise ValueError(f"The keys of {source} are not those of its architecture, missing:\n  {lines}")
    if downsamples is None:
        downsamples = range(SKIPS_PER_LEVEL, len(hints), SKIPS_PER_LEVEL)
    widths = [official[f"lsc_tuner_blocks.{number}.tuner_op.ln1.weight"].shape for number in tuners]
    with init_empty_weights():
        adapter = SCEditAdapter(
            skip_channels=[len(official[key]) for key in hints],
            downsamples=list(downsamples),
            hint_channels=[len(official[key]) for key in strided],
            dense_hint_kernel=official[hints[0]].shape[-1],
            # The official code rounds the widths down, so the largest of their ratios is nearest to the true one.
            down_ratio=max(hidden / channels for hidden, channels in widths),
        )
    weights = adapter.state_dict()
    keys = {official_key(key, len(hints)): key for key in weights}
    check_keys(official, {name: weights[key].shape for name, key in keys.items()}, source)
    adapter.load_state_dict({keys[name]: tensor for name, tensor in official.items()}, assign=True)
    return adapter.eval()


def official_key(key: str, num_skips: int) -> str:
    """Give the official name of a weight of the adapter; the official tuners are in the order of the decoder."""
    part, number, rest = key.split(".", 2)
    if part == "hint_embedding":
        return f"pre_hint_blocks.{number}.{rest}"
    if part == "dense_hints":
        return f"dense_hint_blocks.{number}.1.{rest}"
    return f"lsc_tuner_blocks.{num_skips - 1 - int(number)}.tuner_op.{rest.replace('linear_', 'ln')}"


def _numbers(official: Mapping[str, torch.Tensor], pattern: str) -> list[int]:
    """List the numbers in the keys that match the pattern, in ascending order."""
    return sorted(int(match[1]) for key in official if (match := re.fullmatch(pattern, key)))
