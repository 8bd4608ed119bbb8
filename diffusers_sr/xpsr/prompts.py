"""XPSR's two prompts for an image, and the files they are kept in.

There are two kinds of directories of prompts. A **cache** holds one JSON Lines file for each captioner: its first line
holds the captioner's settings, and every other line the prompts of one image, found by the image's pixels; so an image
file that was renamed, moved, or saved again without loss keeps its prompts. The **official layout** holds two text
files for each image, found by its stem, in the folders `highlevel_prompt` and `lowlevel_prompt_q`; they can be edited.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusers.utils import logging
from PIL import Image

from ..data.names import unique_names
from ..image.decoding import ImageFileError
from ..image.partial import whole_file
from ..image.reader import read_photo
from .image_keys import FileState, ImageKeys

logger = logging.get_logger(__name__)

HIGH_LEVEL_FOLDER = "highlevel_prompt"
LOW_LEVEL_FOLDER = "lowlevel_prompt_q"

_KEYS_AT_A_TIME = 1000


class ImagePrompts(NamedTuple):
    """The two prompts for an image: what it shows, and how good it is (XPSR paper, section 3.2)."""

    high_level: str
    low_level: str


def image_key(image: Image.Image) -> str:
    """Hash an image's size and RGB pixels to the key its prompts are found by, 32 hexadecimal digits."""
    pixels = image.convert("RGB")
    return hashlib.blake2b(f"{pixels.width}x{pixels.height}:".encode() + pixels.tobytes(), digest_size=16).hexdigest()


class PromptCache:
    """The prompts that one captioner gave, by image, in one file of a directory.

    The file is read once and then only appended to, each batch in one write. A line that an interruption left
    incomplete is ignored from then on, and its image is described again.

    Args:
        directory: folder of the cache; created when there is something to write.
        settings: what the prompts depend on: the captioner's name, its instructions. Other settings have another file,
            so that the prompts of one captioner are not mistaken for those of another.

    Raises:
        ValueError: if the file was written by something else.
    """

    def __init__(self, directory: str | Path, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        digest = hashlib.blake2b(json.dumps(self.settings, sort_keys=True).encode(), digest_size=8).hexdigest()
        self.path = Path(directory) / f"prompts-{digest}.jsonl"
        self._prompts = _read_cache(self.path) if self.path.is_file() else {}

    def __len__(self) -> int:
        return len(self._prompts)

    def get(self, image: Image.Image) -> ImagePrompts | None:
        """Look up the prompts of an image; None if it has not been described."""
        return self._prompts.get(image_key(image))

    def describe(
        self, images: Sequence[Image.Image], captioner: Callable[[list[Image.Image]], list[ImagePrompts]]
    ) -> list[ImagePrompts]:
        """Give the prompts of each image; one call of the captioner describes those that have none, each once."""
        keys = [image_key(image) for image in images]
        unknown = {key: image for key, image in zip(keys, images, strict=True) if key not in self._prompts}
        if unknown:  # a captioner may take a long time to load
            self._add(dict(zip(unknown, captioner(list(unknown.values())), strict=True)))
        return [self._prompts[key] for key in keys]

    def replace(self, images: Sequence[Image.Image], prompts: Sequence[ImagePrompts]) -> None:
        """Give images these prompts, in place of any they had."""
        given = dict(zip(map(image_key, images), prompts, strict=True))
        self._add({key: each for key, each in given.items() if self._prompts.get(key) != each})

    def begin(self) -> None:
        """Write the file's first line, if there is no file; several processes may add to it only after that."""
        if not self.path.is_file():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(self.path, json.dumps({"settings": self.settings}, ensure_ascii=False) + "\n")

    def _add(self, prompts: Mapping[str, ImagePrompts]) -> None:
        if not prompts:
            return
        lines = [json.dumps({"image": key, **each._asdict()}, ensure_ascii=False) for key, each in prompts.items()]
        self.begin()
        with open(self.path, "rb+") as file:
            file.seek(-1, os.SEEK_END)
            is_cut_off = file.read() != b"\n"
        with open(self.path, "ab", buffering=0) as unbuffered:  # one system call, so that lines stay whole
            unbuffered.write(("\n" * is_cut_off + "\n".join(lines) + "\n").encode())
        self._prompts.update(prompts)


def write_official(directory: str | Path, stem: str, prompts: ImagePrompts) -> None:
    """Write the prompts of the image `stem` in the official layout, each file whole or not at all.

    A reader takes the first line only, so line breaks become spaces.
    """
    for path, text in zip(official_files(directory, stem), prompts, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, " ".join(text.split()) + "\n")


def official_files(directory: str | Path, stem: str) -> tuple[Path, Path]:
    """Name the files of the official layout with the high- and the low-level prompt of the image `stem`."""
    return Path(directory) / HIGH_LEVEL_FOLDER / f"{stem}.txt", Path(directory) / LOW_LEVEL_FOLDER / f"{stem}.txt"


def read_prompts(directory: str | Path, images: Sequence[Path]) -> list[ImagePrompts]:
    """Read the prompts of image files from a directory of either kind.

    Of a file in the official layout the first line is read, as in the official code; an empty file is an empty prompt.

    Args:
        directory: folder with the folders `highlevel_prompt` and `lowlevel_prompt_q` of text files, or with the file
            of one captioner's cache. If it has both, the official layout is read, because that may have been edited.
        images: image files. For a cache they are opened, because it finds them by their pixels; but not those whose
            `ImageKeys` are kept in the directory.

    Raises:
        FileNotFoundError: if the directory is of neither kind, or a file of the official layout is missing.
        ValueError: if the directory holds the caches of several captioners; an image is not in the cache; or images
            of several folders would share one file of the official layout.
        ImageFileError: if an image of a cache cannot be read.
    """
    return _read_prompts(Path(directory), images, ImageKeys(directory))


def _read_prompts(directory: Path, images: Sequence[Path], known: ImageKeys) -> list[ImagePrompts]:
    if (directory / HIGH_LEVEL_FOLDER).is_dir():
        _check_stems(images)
        return [ImagePrompts(*map(_first_line, official_files(directory, path.stem))) for path in images]
    caches = sorted(directory.glob("prompts-*.jsonl"))
    if not caches:
        raise FileNotFoundError(
            f"There are no prompts in {directory}: it has to hold the folders {HIGH_LEVEL_FOLDER} and "
            f"{LOW_LEVEL_FOLDER}, or what `diffusers-sr caption FOLDER --output {directory}` writes."
        )
    if len(caches) > 1:
        settings = "; ".join(f"{path.name}: {_read_settings(path)}" for path in caches)
        raise ValueError(
            f"{directory} holds the prompts of several captioners: move all but one to other folders. ({settings})"
        )
    prompts = _read_cache(caches[0])
    keys = [known.get(path) or image_key(read_photo(path).image) for path in images]
    if missing := [path for path, key in zip(images, keys, strict=True) if key not in prompts]:
        raise ValueError(
            f"{len(missing)} of {len(images)} images have no prompts in {caches[0]}, the first of them {missing[0]}: "
            f"describe them with `diffusers-sr caption FOLDER --recursive --output {directory}`."
        )
    return [prompts[key] for key in keys]


def _check_stems(images: Sequence[Path]) -> None:
    by_stem: dict[str, Path] = {}
    for path in images:
        if (other := by_stem.setdefault(path.stem, path)).parent != path.parent:
            raise ValueError(
                f"{other} and {path} share one text file in the official layout: rename one of them, or describe them "
                "with the layout 'cache'."
            )


def _first_line(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: every image needs one, which may be empty.")
    lines = path.read_text(encoding="utf-8-sig").split("\n", 1)
    return lines[0].strip()


def _read_settings(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:  # an interruption may have left half a character further on
        first = file.readline()
    try:
        settings: dict[str, Any] = json.loads(first)["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a cache of prompts: its first line does not hold the settings.") from error
    return settings


def _read_cache(path: Path) -> dict[str, ImagePrompts]:
    _read_settings(path)
    prompts = {}
    damaged = 0
    with open(path, "rb") as file:
        file.readline()
        for line in file:
            try:
                entry = json.loads(line)
                prompts[entry["image"]] = ImagePrompts(entry["high_level"], entry["low_level"])
            except (ValueError, KeyError, TypeError):
                damaged += 1
    if damaged:
        logger.info(f"{damaged} lines of {path} that an interruption left unfinished are ignored.")
    return prompts


def _write_whole(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def high_level_prompts(directory: str | Path, photos: Sequence[Path]) -> dict[str, str]:
    """Read the high-level prompts of photos, by `unique_names`; a photo that cannot be read may have none.

    For a cache the keys of the photos are kept in the directory, so that each photo is opened only once.

    Raises:
        FileNotFoundError, ValueError: as `read_prompts` does.
    """
    directory = Path(directory)
    names = dict(zip(photos, unique_names(photos), strict=True))
    known = ImageKeys(directory)
    if any(directory.glob("prompts-*.jsonl")) and not (directory / HIGH_LEVEL_FOLDER).is_dir():
        photos = _learn_keys(known, photos)
    try:
        prompts = _read_prompts(directory, photos, known)
    except FileNotFoundError:  # a file of the official layout
        without = {path for path in photos if not all(map(Path.is_file, official_files(directory, path.stem)))}
        if any(map(_can_be_read, without)):
            raise
        photos = [path for path in photos if path not in without]
        prompts = _read_prompts(directory, photos, known)
    return {names[path]: each.high_level for path, each in zip(photos, prompts, strict=True)}


def _learn_keys(known: ImageKeys, photos: Sequence[Path]) -> list[Path]:
    """Open the photos whose keys are not known, and keep the keys; give the photos that can be read."""
    unreadable = set()
    failure = None
    for start in range(0, len(photos), _KEYS_AT_A_TIME):
        new = {}
        for path in photos[start : start + _KEYS_AT_A_TIME]:
            if known.get(path) is None:
                try:
                    new[path] = FileState.of(path), image_key(read_photo(path).image)
                except (ImageFileError, FileNotFoundError):
                    unreadable.add(path)
        try:
            known.add(new)
        except OSError as error:
            failure = error
    if failure is not None:
        logger.warning(f"The keys of the photos cannot be kept, so that every start opens all photos: {failure}")
    return [path for path in photos if path not in unreadable]


def _can_be_read(path: Path) -> bool:
    try:
        read_photo(path)
    except ImageFileError:
        return False
    return True
