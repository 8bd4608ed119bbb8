"""Downloading a file from a URL; an interrupted download is continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import get_session, is_offline_mode
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # that of the library it is built on
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # documented, but not in its `__all__`

from .digests import has_digest, kind_of
from .errors import ReleasedModelError
from .locking import locked
from .sources import WebFile

_TIMEOUT = 60  # seconds in which nothing comes


def download(file: WebFile, folder: Path) -> Path:
    """Download a file into a folder, unless it is there; go on where an earlier download has stopped.

    The file has its name once it is complete and has been checked.

    Raises:
        ReleasedModelError: if there is no connection, or if it is another file than it should be, which is removed.
        OSError: if it cannot be written.
    """
    target = folder / file.name
    with locked(folder / f".{file.name}.lock", file.name):
        if target.is_file():
            return target
        part = folder / f"{file.name}.part"
        _continue(file, part)
        if (file.size is not None and part.stat().st_size != file.size) or not has_digest(part, file.digest):
            kind = kind_of(part)
            part.unlink()
            raise ReleasedModelError(
                f"{file.url} is not the file that it should be, but {kind}. It has been removed: try again, or "
                "download it yourself and convert it with `diffusers-sr convert`."
            )
        part.rename(target)
    return target


def _continue(file: WebFile, part: Path) -> None:
    """Fetch what is missing of a file and append it to the part that is there."""
    if is_offline_mode():
        raise ReleasedModelError(f"{file.url} has to be downloaded, but HF_HUB_OFFLINE is set: unset it once.")
    start = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        with get_session().stream("GET", file.url, headers=headers, timeout=_TIMEOUT) as response:
            if response.status_code == 416:  # nothing is missing
                return
            response.raise_for_status()
            if response.status_code != 206:  # the whole file, whatever was asked for
                start = 0
            _write(response, part, start, file.name)
    except HTTPError as error:
        raise ReleasedModelError(
            f"{file.url} could not be downloaded ({_reason(error)}). Check the connection and try again: what has "
            "arrived is kept, and the download goes on from there."
        ) from error


def _write(response: Any, part: Path, start: int, name: str) -> None:
    length = response.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    with (
        part.open("r+b" if start else "wb") as output,
        tqdm(desc=name, total=total, initial=start, unit="B", unit_scale=True, disable=None) as progress,
    ):
        output.seek(start)
        try:
            for block in response.iter_bytes():
                output.write(block)
                progress.update(len(block))
        except OSError:  # a full disk
            part.unlink()
            raise


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]
