"""The files of a saved model: what is wrong with one that cannot be read, and what helps."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

AGAIN = "download the model again, or save it again where it was made"
_LFS = b"version https://git-lfs"
# What files of other kinds begin with that are often found under the name of weights.
_OTHERS = {b"PK\x03\x04": "torch's pickle", b"\x80": "a pickle", b"<": "a page of the web", b"\x1f\x8b": "a gzip file"}


class ModelFolderError(OSError, ValueError):
    """A saved model that cannot be loaded: the message names the file, what is wrong with it, and what helps."""


def check_folder(path: Path) -> None:
    """Raise ModelFolderError if there is no folder at the path, or it may not be listed."""
    if not stat.S_ISDIR(_status(path).st_mode):
        raise ModelFolderError(f"{path} is not a folder: {AGAIN}.")
    try:
        os.listdir(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def check_file(path: Path) -> None:
    """Raise ModelFolderError if there is no file at the path, it may not be read, or only stands for another."""
    mode = _status(path).st_mode
    if not stat.S_ISREG(mode):  # reading a pipe would wait for its other end
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise ModelFolderError(f"{path} is {kind}, expected a file: {AGAIN}.")
    if _start(path).startswith(_LFS):
        raise ModelFolderError(
            f"{path} is a pointer of Git LFS instead of the file itself: run `git lfs pull` in its repository, or "
            "download the model again."
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelFolderError: if there is no such file, it cannot be read, or it does not hold a JSON object.
    """
    check_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        size = path.stat().st_size
        reason = "it is empty" if size == 0 else f"{error}"
        raise ModelFolderError(f"{path} is not JSON ({reason}): {AGAIN}.") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path} holds {content!r:.40}, expected a JSON object: {AGAIN}.")
    return content


def check_weights(path: Path) -> None:
    """Raise ModelFolderError if the path is not a whole safetensors file."""
    check_file(path)
    try:
        with safe_open(path, "pt"):
            return
    except (SafetensorError, OSError) as error:
        start = _start(path)
        kind = next((kind for mark, kind in _OTHERS.items() if start.startswith(mark)), None)
        size = path.stat().st_size
        reason = f"but {kind}" if kind else f"of {size} bytes: {error}" if size else "but empty"
        raise ModelFolderError(f"{path} is not a whole safetensors file, {reason}. Remedy: {AGAIN}.") from error


def stored_tensors(paths: Iterable[Path]) -> dict[str, str]:
    """Read the names of the tensors in safetensors files, with their types, such as F32."""
    found: dict[str, str] = {}
    for path in paths:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        found |= {name: about["dtype"] for name, about in header.items() if name != "__metadata__"}
    return found


def check_shards(path: Path) -> None:
    """Raise ModelFolderError if the index of a model's shards is not one, or names files that are not beside it."""
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise ModelFolderError(f"{path} does not map weights to files under 'weight_map': {AGAIN}.")
    for name in sorted(set(shards.values())):
        if os.path.basename(name) != name:
            raise ModelFolderError(f"{path} names {name!r}, which is not a file beside it: {AGAIN}.")
        try:
            check_file(path.parent / name)
        except ModelFolderError as error:
            raise ModelFolderError(f"{path} names a file that cannot be used. {error}") from error


def honour_umask(folder: Path) -> None:
    """Give the files in a folder the permissions of new files: safetensors' are readable by their owner alone."""
    umask = os.umask(0o077)  # which can only be read by setting it
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~umask)


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(_LFS))
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ModelFolderError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if path.is_symlink():
            return ModelFolderError(f"{path} is a link to {os.readlink(path)}, which does not exist: {AGAIN}.")
        return ModelFolderError(f"There is no {path}: {AGAIN}.")
    if isinstance(error, PermissionError):
        return ModelFolderError(f"{path} may not be read: ask for permission, or give it (chmod -R u+rX).")
    return ModelFolderError(f"{path} cannot be read ({error.strerror}): {AGAIN}.")
