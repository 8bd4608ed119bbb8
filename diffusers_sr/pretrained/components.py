"""The folder of a single model, tokenizer or scheduler: what is wrong with it, and whether all of it was loaded."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffusers import ModelMixin, SchedulerMixin
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import LARGE_INTEGER

from .files import (
    AGAIN,
    ModelFolderError,
    check_file,
    check_folder,
    check_shards,
    check_weights,
    read_json,
    stored_tensors,
)

_READ = (".json", ".safetensors", ".bin", ".txt", ".model")
_MOST_LISTED = 5


def names_base(folder: Path) -> bool:
    """Whether a component's folder only names the one of a base: see `BaseComponent`."""
    config = folder / "config.json"
    return config.is_file() and read_json(config).get("_class_name") == "BaseComponent"


def check_files(folder: Path) -> None:
    """Raise ModelFolderError if a file in the folder cannot be what its suffix says."""
    check_folder(folder)
    for path in sorted(folder.iterdir()):
        if path.name.endswith(".index.json"):
            check_shards(path)
        elif path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            check_weights(path)
        elif path.suffix in _READ:
            check_file(path)


def try_to_load(kind: Any, folder: Path) -> None:
    """Raise ModelFolderError if a class of diffusers or transformers cannot be loaded from a folder of sound files."""
    config = folder / _config_name(kind)
    if not issubclass(kind, PreTrainedTokenizerBase):
        check_file(config)
    if issubclass(kind, nn.Module) and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ModelFolderError(f"{folder} holds no weights of the {kind.__name__} (no .safetensors file): {AGAIN}.")
    try:
        if issubclass(kind, PreTrainedModel):  # its own error does not say which shapes differ
            _, about = kind.from_pretrained(folder, ignore_mismatched_sizes=True, output_loading_info=True)
            if other := [f"{name} {[*found]} instead of {[*own]}" for name, found, own in about["mismatched_keys"]]:
                raise ValueError(f"other shapes: {_some(other)}")
        else:
            kind.from_pretrained(folder)
    except Exception as error:  # the libraries have no fixed set of errors for what does not fit
        raise ModelFolderError(
            f"{config} and the files beside it cannot be loaded as {kind.__name__} ({one_line(error)}): {AGAIN}."
        ) from error


def check_complete(loaded: Any, folder: Path) -> None:
    """Raise ModelFolderError if what was loaded from a folder cannot work, because a part of it is missing or wrong.

    For weights and words that are missing the libraries only give a warning, and make some up.
    """
    if isinstance(loaded, PreTrainedTokenizerBase):
        _check_tokenizer(loaded, folder)
    if isinstance(loaded, (ModelMixin, SchedulerMixin)):
        _check_options(loaded, folder)
    if isinstance(loaded, (ModelMixin, PreTrainedModel)):
        _check_weights(loaded, folder)


def one_line(error: BaseException) -> str:
    """Put an error into a few words on one line: its first sentences, or its kind if it says nothing."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 and text else f"{text[:300]}…" if text else type(error).__name__


def _config_name(kind: Any) -> str:
    if issubclass(kind, PreTrainedTokenizerBase):
        return "tokenizer_config.json"
    name: str = kind.config_name if issubclass(kind, (ModelMixin, SchedulerMixin)) else "config.json"
    return name


def _check_options(loaded: ModelMixin | SchedulerMixin, folder: Path) -> None:
    """Texts in the place of numbers, and the other way round, fail only when they are used."""
    for name, parameter in inspect.signature(type(loaded).__init__).parameters.items():
        value, usual = loaded.config.get(name), parameter.default
        if (_is_number(usual) and isinstance(value, str)) or (isinstance(usual, str) and _is_number(value)):
            raise ModelFolderError(
                f"{folder / loaded.config_name} has {name}={value!r}, expected a value such as {usual!r}: {AGAIN}."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_weights(loaded: Any, folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    place = files[0] if len(files) == 1 else folder
    parameters = dict(loaded.named_parameters())
    is_offloaded = getattr(loaded, "hf_device_map", None) is not None  # its weights may wait on a disk
    if not is_offloaded and (missing := [name for name, each in parameters.items() if each.is_meta]):
        raise _incomplete(loaded, place, missing)
    if not files or getattr(loaded.config, "quantization_config", None) is not None:
        return
    stored = stored_tensors(files)
    if isinstance(loaded, PreTrainedModel):
        prefix = f"{loaded.base_model_prefix}."
        stored |= {name.removeprefix(prefix): kind for name, kind in stored.items()}
        if not parameters.keys() <= stored.keys():
            # Names may have been changed while loading, which only the library itself knows.
            _, about = type(loaded).from_pretrained(folder, output_loading_info=True)
            if about["missing_keys"]:
                raise _incomplete(loaded, place, about["missing_keys"])
    kinds = {name: stored[name] for name in parameters if name in stored}
    if wrong := [f"{name} ({kind})" for name, kind in kinds.items() if not kind.startswith(("F", "BF"))]:
        raise ModelFolderError(
            f"{place} holds weights of the {type(loaded).__name__} that are not floating-point numbers, "
            f"{_some(wrong)}: {AGAIN}."
        )


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    names = dict(tokenizer.vocab_files_names)
    whole = names.pop("tokenizer_file", None)
    if (whole is None or not (folder / whole).is_file()) and not all(
        (folder / each).is_file() for each in names.values()
    ):
        raise ModelFolderError(
            f"{folder} holds no vocabulary of the {type(tokenizer).__name__}, neither {whole} nor "
            f"{' and '.join(names.values())}: {AGAIN}."
        )
    length = tokenizer.model_max_length
    if not isinstance(length, int) or not 0 < length < LARGE_INTEGER:
        raise ModelFolderError(
            f"{folder / 'tokenizer_config.json'} does not give 'model_max_length', the most tokens of a text, as a "
            f"number above 0: {AGAIN}."
        )
    try:
        tokenizer("a photo")
    except Exception as error:  # that of a damaged vocabulary is an Exception, and no more
        raise ModelFolderError(f"{folder} cannot read a text ({one_line(error)}): {AGAIN}.") from error


def _incomplete(loaded: nn.Module, place: Path, missing: Iterable[str]) -> ModelFolderError:
    return ModelFolderError(
        f"{place} lacks weights of the {type(loaded).__name__}, {_some(sorted(missing))}: {AGAIN}."
    )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _MOST_LISTED
    return ", ".join(listed[:_MOST_LISTED]) + (f" and {more} others" if more > 0 else "")
