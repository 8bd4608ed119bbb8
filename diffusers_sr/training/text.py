"""The texts that stages train with: which stages need them, where they come from, and that none is missing unnoticed.

A stage that trains with tags or captions has `TextArguments`. Then every photo needs a text; all other stages take
none, and refuse options that give some.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from ..data.photos import PhotoFiles, Photos, read_image
from ..data.tags import photo_tags
from ..image.decoding import ImageFileError
from ..image.names import printable
from ..xpsr.prompts import high_level_prompts
from .arguments import PhotoArguments, option

logger = logging.getLogger(__name__)


_FILES = ("tags_file", "prompts_dir")


@dataclass(kw_only=True)
class TextArguments:
    """The options of the trainers on photographs with tags or captions."""

    tags_file: str | None = option(
        None, "CSV file with the columns file and tags: tags or captions of the clean photos."
    )
    allow_missing_text: bool = option(False, "Train although photos lack tags or captions, or all of them do.")


@dataclass(kw_only=True)
class PromptArguments(TextArguments):
    """The options of XPSR's trainers, whose captions may be prompts of `diffusers-sr caption`."""

    prompts_dir: str | None = option(
        None, "Folder of prompts for the photos, by `diffusers-sr caption`; instead of --tags_file."
    )


def text_options(arguments: PhotoArguments) -> TextArguments | None:
    """Give the options of a stage that trains with texts; None if it has none, or leaves all texts out.

    Raises:
        ValueError: if it trains without texts, but the options give some.
    """
    reason = "this stage trains without text"
    if isinstance(arguments, TextArguments):
        if getattr(arguments, "null_text_ratio", 0) < 1:
            return arguments
        reason = "--null_text_ratio 1 leaves all texts out"
    for name, value in (named_texts(arguments) | {"caption_column": arguments.caption_column}).items():
        if value is not None:
            raise ValueError(f"--{name} {value}: {reason}. Leave out --{name}.")
    return None


def named_texts(arguments: PhotoArguments) -> dict[str, str]:
    """Give those options that are set of which texts are found by the photos' names: the table, the prompts."""
    values = {name: getattr(arguments, name, None) for name in _FILES}
    return {name: value for name, value in values.items() if value is not None}


def read_texts(arguments: PhotoArguments, photos: Photos) -> dict[str, str]:
    """Read the texts of photos by their names, from the table or the folder of prompts that the options name.

    Raises:
        ValueError: if they name both, or a folder of prompts for photos that are not files of a folder; or
            `photo_tags` or `high_level_prompts` raises it.
        FileNotFoundError: if `high_level_prompts` raises it.
    """
    tags_file, prompts_dir = map(named_texts(arguments).get, _FILES)
    if prompts_dir is None:
        return photo_tags(tags_file, photos, arguments.photo_folders)
    if tags_file is not None:
        raise ValueError("Tags or captions come from one of --tags_file and --prompts_dir.")
    if not isinstance(photos, PhotoFiles):
        raise ValueError(
            "--prompts_dir is for photos that are files of a folder: give --train_data_dir, or --tags_file."
        )
    return high_level_prompts(prompts_dir, photos.paths)


def asks_for_none(arguments: PhotoArguments) -> bool:
    """Whether a stage that can do without texts is given photos of folders, and no option that says where texts are.

    Unlike photos that a table lacks, they cannot have been forgotten one by one: it trains, with a warning.
    """
    can_do_without = hasattr(arguments, "null_text_ratio")
    return arguments.train_data_dir is not None and not named_texts(arguments) and can_do_without


def check_texts(photos: Photos, texts: Mapping[str, str], allow_missing: bool) -> None:
    """Log the share of the photos that have a text. Those that cannot be read need none: they are skipped in training.

    Args:
        photos: the photos.
        texts: texts by their names; photos that are not named have those that are stored with them.
        allow_missing: whether photos may lack a text.

    Raises:
        ValueError: if a photo lacks a text, and that is not allowed.
    """
    stored = zip(photos.names, photos.texts, strict=True)
    missing = [number for number, (name, text) in enumerate(stored) if not texts.get(name, text)]
    having = len(photos) - len(missing)
    share = f"{having} of the {len(photos)} photos ({having / len(photos):.2%}) have tags or captions"
    if not missing:
        logger.info("%s.", share)
        return
    if allow_missing:
        logger.warning("%s, %s have none.", share, _shown(photos, missing[:2]))
        return
    examples = list(islice((number for number in missing if _can_be_read(photos, number)), 2))
    if examples:
        raise ValueError(
            f"{len(missing)} of the {len(photos)} photos have no tags or captions, such as "
            f"{_shown(photos, examples)}: give a table that has them all (--tags_file; training/make_tags.py writes "
            "one), or train without them (--allow_missing_text true)."
        )
    logger.warning("%s; the others cannot be read.", share)


def _shown(photos: Photos, numbers: list[int]) -> str:
    return ", ".join(f"'{printable(photos.names[number])}'" for number in numbers)


def _can_be_read(photos: Photos, number: int) -> bool:
    try:
        read_image(photos[number].file)
    except ImageFileError:
        return False
    return True
