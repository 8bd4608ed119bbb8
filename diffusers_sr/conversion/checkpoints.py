"""Read foreign checkpoints without trusting them, and write folders that are either complete or absent."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..pretrained.files import honour_umask, read_json

PathLike = str | os.PathLike[str]

_ALONE = "Save its state dict alone, preferably as safetensors."


def read_state_dict(path: PathLike) -> dict[str, torch.Tensor]:
    """Read a flat dictionary of tensors, on the CPU, from a safetensors file or a torch pickle.

    No code in a pickle is run. If its dictionary holds the weights under "state_dict", as training checkpoints do, or
    under "model", as RAM's does, those are returned; anything else in it (a training's progress, the state of its
    callbacks) is ignored. The tensors of a pickle are mapped from the file, not yet read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or there is anything but tensors among the weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    content = read_pickle(path)
    weights = content
    if isinstance(content, dict):
        weights = content.get("state_dict", content.get("model", content))
    if not isinstance(weights, dict):
        raise ValueError(
            f"{path} holds a {type(weights).__name__}, expected a dictionary of tensors, by name or under "
            f"'state_dict' or 'model'. {_ALONE}"
        )
    others = [f"{key!r}: {type(value).__name__}" for key, value in weights.items() if not torch.is_tensor(value)]
    if others:
        shown = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
        raise ValueError(
            f"{path} is not a flat dictionary of tensors, by name or under 'state_dict' or 'model': it holds {shown}. "
            f"Code in a pickle is never run. {_ALONE}"
        )
    return dict(weights)


def read_pickle(path: PathLike) -> Any:
    """Read what a torch pickle holds, on the CPU, whose code is never run.

    The tensors are mapped from the file, not yet read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or holds objects that need code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    try:
        return _unpickle(path)
    except Exception as error:  # torch's unpickler has no fixed set of errors for damaged bytes
        # For a refused pickle, torch's own message goes on to say how to trust it.
        reason = str(error.__context__ or error).partition("\n")[0].partition(" Please use")[0]
        raise ValueError(
            f"{path} could not be read as a file of weights: it is damaged, or its pickle holds objects that need "
            f"code, which is never run. {_ALONE} ({reason or type(error).__name__})"
        ) from error


class _StandIn:
    """An empty object in place of one that only code in a pickle could make."""

    def __new__(cls, *args: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _unpickle(path: Path) -> Any:
    """Read a pickle as `torch.load` does with `weights_only=True`, with stand-ins for what that would refuse.

    PyTorch Lightning before 1.5, which trained Stable Diffusion and its relatives, writes its callbacks' classes into
    every checkpoint, besides the weights. Nothing is imported for a stand-in.
    """
    if not zipfile.is_zipfile(path):  # torch's older format: it cannot be mapped, nor can its classes be listed
        return torch.load(path, map_location="cpu", weights_only=True)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with torch.serialization.safe_globals([(type(name, (_StandIn,), {}), name) for name in names]):
        # A mapped file does not have to fit into memory.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def read_model_folder(folder: PathLike) -> dict[str, torch.Tensor]:
    """Read the state dict of a diffusers model folder: its safetensors file if it has one, otherwise its pickle."""
    names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
    for name in names:
        if (Path(folder) / name).is_file():
            return read_state_dict(Path(folder) / name)
    raise FileNotFoundError(f"There is neither {names[0]} nor {names[1]} in {folder}.")


def read_model_config(folder: PathLike, class_name: str, own_options: Iterable[str] = ()) -> dict[str, Any]:
    """Read the configuration of an official model folder for the stock class of that name.

    Args:
        own_options: options of the official code that the stock class does not know, which are left out.

    Raises:
        FileNotFoundError: if there is no configuration.
        ValueError: if it is that of another class.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: give the official model folder, with configuration and weights.")
    config = read_json(path)
    if config.get("_class_name") != class_name:
        raise ValueError(f"{path} describes a {config.get('_class_name')}, but a {class_name} is expected.")
    return {option: value for option, value in config.items() if option not in own_options}


def stock_key(key: str) -> str:
    """Give the official name of a stock weight in an official model: its own."""
    return key


def load_parts(
    state_dict: Mapping[str, torch.Tensor],
    parts: Sequence[tuple[nn.Module, Callable[[str], str]]],
    source: PathLike | str,
) -> None:
    """Load modules from one official state dict, which holds all of them and nothing else. Weights keep their dtype.

    Args:
        parts: every module, with a function that gives the official name of a key of its state dict.
        source: what errors call the state dict.

    Raises:
        ValueError: if keys are missing, unexpected or mis-shaped, of which all are listed, or weights are not real.
    """
    own = [{key: (name(key), tensor.shape) for key, tensor in part.state_dict().items()} for part, name in parts]
    check_keys(state_dict, {official: shape for keys in own for official, shape in keys.values()}, source)
    check_real(state_dict, source)
    for (part, _), keys in zip(parts, own, strict=True):
        part.load_state_dict({key: state_dict[official] for key, (official, _) in keys.items()}, assign=True)


def check_keys(
    state_dict: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Size], source: PathLike | str
) -> None:
    """Make sure that a state dict has exactly the expected keys with exactly the expected shapes.

    Raises:
        ValueError: if keys are missing, unexpected or mis-shaped; one error lists all of them.
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


def check_real(state_dict: Mapping[str, torch.Tensor], source: PathLike | str) -> None:
    """Raise ValueError if weights are not real numbers: whole or complex ones."""
    if others := [f"{key}: {tensor.dtype}" for key, tensor in state_dict.items() if not tensor.is_floating_point()]:
        shown = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
        raise ValueError(f"The weights of {source} have to be real numbers, but {len(others)} are not: {shown}.")


@contextmanager
def new_folder(output: PathLike) -> Iterator[Path]:
    """Give a temporary folder to write into, which becomes `output` once the `with` block ends without an error.

    After an error nothing is left of it.

    Raises:
        FileExistsError: if `output` exists and is not an empty folder.
    """
    output = Path(output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} exists already: remove it, or choose another output folder.")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.parent / f".{output.name}.{os.getpid()}.partial"
    temporary.mkdir()
    try:
        yield temporary
        honour_umask(temporary)
        if output.exists():
            output.rmdir()
        temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
