"""Describe every image of a folder and keep the prompts in a directory, for `read_prompts`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm.auto import tqdm

from ..image.decoding import ImageFileError
from ..image.folders import find_images
from ..image.formats import images_in
from ..image.partial import remove_left_over
from ..image.pixels import read_images
from ..image.reader import read_photo
from .caption_names import LAYOUTS, Layout
from .degradation_prompt import describe_degradation
from .image_keys import FileState, ImageKeys
from .prompts import (
    HIGH_LEVEL_FOLDER,
    LOW_LEVEL_FOLDER,
    ImagePrompts,
    PromptCache,
    image_key,
    official_files,
    write_official,
)

Report = Callable[[Path, str], None]
Part = tuple[int, int]

MEASURED_SETTINGS = {"captioner": "measured"}
"""The settings of the cache that `measure_folder` writes."""

# Words in file names that cameras and programs choose, not people.
_NOT_WORDS = {"img", "image", "dsc", "dscf", "dscn", "pxl", "mvimg", "photo", "pic", "picture", "screenshot", "scan"}


class Described(NamedTuple):
    """How many images of a folder were described, how many had been already, and how many could not be read."""

    described: int
    kept: int
    unreadable: int


def caption_folder(
    folder: Path,
    output: Path,
    captioner: Callable[[list[Image.Image]], list[ImagePrompts]],
    settings: Mapping[str, Any],
    *,
    layout: Layout = "cache",
    batch_size: int = 4,
    recursive: bool = False,
    part: Part = (0, 1),
    report: Report,
) -> Described:
    """Have a captioner describe the images of a folder that are not described yet; it may be interrupted and resumed.

    Args:
        folder: folder of images; see `images_in` for those that are taken.
        output: directory of prompts to write or to continue.
        captioner: called with up to `batch_size` images, and only if there are any to describe.
        settings: what its prompts depend on, such as `Captioner.settings`; other settings start a new cache.
        layout: "cache", whose prompts are found by the images' pixels, or "official", text files that are found by the
            images' stems. The latter record no settings: files that exist are kept, whoever wrote them.
        batch_size: images that are read, described and written at a time.
        recursive: whether folders in the folder are searched, too, except for hidden ones, links and the output.
        part: which of how many parts of the images to describe, from 0 on: several processes share the work.
        report: called with every file and folder that cannot be read, and every link to a folder, and the reason.

    Raises:
        ValueError: if there is no image in the folder, or two of them would share a file of the official layout.
        OSError: if the folder cannot be read, or the output cannot be written.
    """
    paths, unreadable = _images(folder, output, layout, recursive, part, report)
    _remove_left_over(output)
    described = kept = 0
    cache = PromptCache(output, settings) if layout == "cache" else None
    keys = ImageKeys(output)
    for batch in _batches(paths, batch_size, folder.name, part):
        if cache is None:
            todo = [path for path in batch if not all(file.is_file() for file in official_files(output, path.stem))]
            photos = _read(todo, report)
            if photos:
                for path, prompts in zip(photos, captioner(list(photos.values())), strict=True):
                    write_official(output, path.stem, prompts)
            new, readable = len(photos), len(photos) + len(batch) - len(todo)
        else:
            states = {path: FileState.of(path) for path in batch if path.is_file()}
            photos = _read(batch, report)
            before = len(cache)
            cache.describe(list(photos.values()), captioner)
            keys.add({path: (states[path], image_key(image)) for path, image in photos.items()})
            new, readable = len(cache) - before, len(photos)
        described += new
        kept += readable - new
        unreadable += len(batch) - readable
    return Described(described, kept, unreadable)


def measure_folder(
    folder: Path,
    output: Path,
    *,
    layout: Layout = "cache",
    high_level_from_names: bool = False,
    recursive: bool = False,
    part: Part = (0, 1),
    report: Report,
) -> Described:
    """Describe every image of a folder by what can be measured, with `describe_degradation`: no language model.

    This takes little longer than reading the images, so images that are described already are described again.

    Args:
        folder, output, layout, recursive, part, report: as in `caption_folder`.
        high_level_from_names: whether the words of a file's name are its high-level prompt, which otherwise is empty.
            In a cache, copies of one image share the words of the last one's name.

    Raises:
        ValueError, OSError: as `caption_folder` does.
    """
    paths, unreadable = _images(folder, output, layout, recursive, part, report)
    _remove_left_over(output)
    cache = PromptCache(output, MEASURED_SETTINGS) if layout == "cache" else None
    keys = ImageKeys(output)
    described = 0
    for batch in _batches(paths, 16, folder.name, part):
        states = {path: FileState.of(path) for path in batch if path.is_file()}
        photos = _read(batch, report)
        prompts = [
            ImagePrompts(words_of_name(path) if high_level_from_names else "", measured_prompt(photo))
            for path, photo in photos.items()
        ]
        if cache is not None:
            cache.replace(list(photos.values()), prompts)
            keys.add({path: (states[path], image_key(image)) for path, image in photos.items()})
        else:
            for path, each in zip(photos, prompts, strict=True):
                write_official(output, path.stem, each)
        described += len(photos)
    return Described(described, 0, unreadable + len(paths) - described)


def measured_prompt(image: Image.Image) -> str:
    """Write the low-level prompt of an image, with `describe_degradation`."""
    return describe_degradation(read_images(image)[0])


def words_of_name(path: Path) -> str:
    """Extract the words in a file's name: "red-fox_012.png" gives "red fox", "IMG_200x100.jpg" nothing."""
    parts = [part.rstrip("0123456789").lower() for part in re.split(r"[\W_]+", path.stem)]
    return " ".join(part for part in parts if part.isalpha() and part not in _NOT_WORDS)


def _images(
    folder: Path, output: Path, layout: Layout, recursive: bool, part: Part, report: Report
) -> tuple[list[Path], int]:
    """List a part of the images; the first part also counts the folders that cannot be read, which are reported."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}, expected one of {', '.join(map(repr, LAYOUTS))}.")
    paths = images_in(folder)
    failures = 0
    if recursive:
        found = find_images([folder], recursive=True, left_out=output)
        paths = [path for path, _ in found.images]
        if part[0] == 0:
            for path, reason in (*found.notes, *(found.failures if paths else ())):
                report(path, reason)
            failures = len(found.failures)
    if not paths:
        where = "or in the folders in it" if recursive else "itself: give the folder that holds them, or --recursive"
        raise ValueError(f"There is no image in {folder} {where}.")
    by_stem: dict[str, Path] = {}
    if layout == "official":
        for path in paths:
            if (other := by_stem.setdefault(path.stem, path)) != path:
                names = " and ".join(str(each.relative_to(folder)) for each in (other, path))
                raise ValueError(
                    f"{names} in {folder} would share one text file in the official layout: "
                    "rename one of them, or use the layout 'cache'."
                )
    return paths[part[0] :: part[1]], failures


def _remove_left_over(output: Path) -> None:
    for folder in (output, output / HIGH_LEVEL_FOLDER, output / LOW_LEVEL_FOLDER):
        remove_left_over(folder)


def _batches(paths: Sequence[Path], size: int, name: str, part: Part) -> Iterator[list[Path]]:
    """Yield the paths in batches of at most `size`; a progress bar counts those of the first part that are done."""
    with tqdm(total=len(paths), desc=name, disable=part[0] > 0) as progress:
        for start in range(0, len(paths), size):
            batch = list(paths[start : start + size])
            yield batch
            progress.update(len(batch))


def _read(paths: Sequence[Path], report: Report) -> dict[Path, Image.Image]:
    images = {}
    for path in paths:
        try:
            images[path] = read_photo(path).image
        except ImageFileError as error:
            report(path, str(error))
    return images
