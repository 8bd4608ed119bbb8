"""The folder of a converted model: fetched and converted once, by one process, whole or not at all.

It is `diffusers-sr/NAME-KEY/NAME` in the folder of the Hub's cache (`HF_HUB_CACHE`, by default `hub` in `HF_HOME`).
The key depends on what the model is made of: another source, or another layout, is another folder. The files that it
is made of are in the Hub's cache, as if anything else had asked for them, and those from elsewhere in
`diffusers-sr/downloads`. Any of it may be deleted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from . import repository, web
from .catalogue import RELEASED, Released
from .errors import check_room, no_room_is_said, size_text
from .locking import locked
from .repository import Listing
from .sources import HubFiles, WebFiles

logger = logging.getLogger(__name__)

LAYOUT = 1
"""The layout of converted folders: one more when a converter writes something that older folders lack."""

RECORD_FILE = "released.json"
"""The file beside a converted folder that says what it was made of."""


def cache_folder() -> Path:
    """Give the folder of the converted models."""
    return Path(constants.HF_HUB_CACHE) / "diffusers-sr"


def model_folder(name: str) -> Path:
    """Give the folder of a converted model, which may not exist yet."""
    model = RELEASED[name]
    made_of = {argument: dataclasses.asdict(source) for argument, source in model.sources.items()}
    text = json.dumps([LAYOUT, model.converter, made_of], sort_keys=True)
    return cache_folder() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}" / name


def fetch_and_convert(name: str, converter: Callable[..., None]) -> Path:
    """Give the folder of a converted model; unless it is there, fetch what it is made of and convert it.

    Terms that restrict the use of a model are logged as a warning before anything is fetched.

    Args:
        name: one of `RELEASED`.
        converter: what `diffusers-sr convert` calls for the model's converter.

    Raises:
        ReleasedModelError: if something cannot be fetched, or there is no room for it.
        OSError, ValueError: if the files are not what the converter expects.
    """
    folder = model_folder(name)
    if folder.is_dir():
        return folder
    from ..conversion.checkpoints import new_folder  # and torch with it, which the list of models does not need

    model, whole = RELEASED[name], folder.parent
    if model.terms is not None:
        logger.warning("The use of %s is restricted: %s.", name, model.terms)
    with no_room_is_said(cache_folder()), locked(cache_folder() / f".{whole.name}.lock", name):
        if folder.is_dir():  # another process has made it
            return folder
        _remove_unfinished(whole)
        arguments, record = _fetch(name, model)
        logger.info("Converting %s, once.", name)
        with new_folder(whole) as unfinished:
            converter(**arguments, output=unfinished / name)
            (unfinished / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return folder


def missing_bytes(name: str) -> int:
    """Ask the Hub how many bytes would have to be downloaded for a model, without what is not on the Hub.

    Raises:
        ReleasedModelError: if the Hub cannot be asked, or lacks a file.
    """
    return sum(listing.missing_bytes() for listing in _read_listings(RELEASED[name]).values())


def _read_listings(model: Released) -> dict[str, Listing]:
    return repository.read_listings(
        {argument: source for argument, source in model.sources.items() if isinstance(source, HubFiles)}
    )


def _fetch(name: str, model: Released) -> tuple[dict[str, Path], dict[str, Any]]:
    """Fetch everything a model is made of: the converter's arguments, and what was fetched for each."""
    listings = _read_listings(model)
    missing = sum(listing.missing_bytes() for listing in listings.values())
    check_room(cache_folder(), missing)
    if missing:
        logger.info("Downloading %s for %s, once.", size_text(missing), name)
    arguments, record = {}, {}
    for argument, source in model.sources.items():
        if isinstance(source, WebFiles):
            arguments[argument], record[argument] = _fetch_web(source)
        else:
            arguments[argument], record[argument] = repository.fetch(listings[argument]), _recorded(listings[argument])
    return arguments, record


def _fetch_web(source: WebFiles) -> tuple[Path, dict[str, Any]]:
    """Download files into a folder whose name depends on their content."""
    key = hashlib.sha256(" ".join(file.digest for file in source.files).encode()).hexdigest()[:12]
    folder = cache_folder() / "downloads" / key
    paths = [web.download(file, folder) for file in source.files]
    return folder if source.is_folder else paths[0], {file.url: file.digest for file in source.files}


def _recorded(listing: Listing) -> dict[str, Any]:
    return {
        "repo": listing.source.repo,
        "repo_type": listing.source.repo_type,
        "commit": listing.commit,
        "files": {path: entry.digest for path, entry in listing.entries.items()},
    }


def _remove_unfinished(whole: Path) -> None:
    """Remove what processes have left that were ended in the middle: none is running, because the lock is held."""
    for left in whole.parent.glob(f".{whole.name}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)
