"""Reading foreign checkpoints without trusting them, and writing folders that are whole or not there."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

PathLike = str | os.PathLike[str]


def read_state_dict(path: PathLike) -> dict[str, torch.Tensor]:
    """Read a flat dictionary of tensors, on the CPU, from a safetensors file or a torch pickle.

    A pickle is read with `weights_only=True`: no code in it runs. If its dictionary holds the weights under "model",
    as RAM's does, these are given.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is no readable safetensors file: {error}") from error
    try:
        # A mapped file does not have to fit into memory; torch can map only its newer, zipped format.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # what torch's unpickler raises on damaged bytes is no closed set
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path} could not be read as a file of weights: it is damaged, or its pickle holds more than tensors, "
            f"which is never run. Save its state dict alone, best as safetensors. ({reason})"
        ) from error
    weights = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{path} is not a flat dictionary of tensors, by name or under 'model'.")
    return dict(weights)


def read_model_folder(folder: PathLike) -> dict[str, torch.Tensor]:
    """Read the state dict of a diffusers model folder: its safetensors file if it has one, otherwise its pickle."""
    names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
    for name in names:
        if (Path(folder) / name).is_file():
            return read_state_dict(Path(folder) / name)
    raise FileNotFoundError(f"There is neither {names[0]} nor {names[1]} in {folder}.")


def check_keys(
    state_dict: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Size], source: PathLike | str
) -> None:
    """Make sure that a state dict has exactly the expected keys with exactly the expected shapes.

    Raises:
        ValueError: One error that lists all keys that are missing, unexpected or mis-shaped.
    """
    missing = [f"  {key} {list(shape)}" for key, shape in expected.items() if key not in state_dict]
    unexpected = [f"  {key} {list(tensor.shape)}" for key, tensor in state_dict.items() if key not in expected]
    misshaped = [
        f"  {key} is {list(state_dict[key].shape)}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in state_dict and state_dict[key].shape != shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "mis-shaped": misshaped}
    if any(found.values()):
        lists = (f"{len(keys)} {kind}:\n" + "\n".join(keys) for kind, keys in found.items() if keys)
        raise ValueError(f"The keys of {source} are not those of its architecture.\n" + "\n".join(lists))


@contextmanager
def new_folder(output: PathLike) -> Iterator[Path]:
    """Give a temporary folder to write into, which becomes `output` once the `with` block ends without an error.

    After an error nothing is left of it.

    Raises:
        FileExistsError: If `output` exists and is not an empty folder.
    """
    output = Path(output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} exists already: remove it, or choose another output folder.")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.parent / f".{output.name}.{os.getpid()}.partial"
    temporary.mkdir()
    try:
        yield temporary
        if output.exists():
            output.rmdir()
        temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
