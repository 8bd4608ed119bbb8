"""What describes photographs for training, and the table that processes write of it together."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPModel, CLIPTokenizer

from ..coser.cognition import normalise_for_clip
from ..data.shared_table import Cells, SharedTable
from ..image.decoding import ImageFileError
from ..image.names import printable
from ..image.pixels import resize
from ..pretrained.loading import load_pretrained
from ..seesr.tagger import Tagger
from ..texts import token_ids
from ..xpsr.captioner import Captioner

logger = logging.getLogger(__name__)

# Processes wait for each other only at the end, and one may have larger photos than another.
_PATIENCE = timedelta(days=30)

Describe = Callable[[Sequence[str], Sequence[Tensor]], list[list[Cells]]]
"""Gives the rows of each of some images, by their names and themselves: [3, height, width] in [0, 1], on a CPU."""


def processes() -> PartialState:
    """Find the other processes of the command, which wait for each other as long as it takes."""
    # Of itself it does not look for other processes on CPUs, unlike Accelerator.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=_PATIENCE)


def write_descriptions(
    table: Path,
    columns: Sequence[str],
    settings: Mapping[str, Any],
    names: Sequence[str],
    read: Callable[[int], Tensor],
    load: Callable[[torch.device], Describe],
    batch_size: int,
    num_workers: int = 0,
) -> None:
    """Describe images on all processes, and write the table; images that are in it are left alone.

    Args:
        table: the CSV file, as a `SharedTable` of these columns and settings.
        columns, settings: as in `SharedTable`.
        names: the images' names in the table.
        read: gives an image by its number. One that cannot be read is reported, and has no row.
        load: loads on a device what describes the images; it is only called if there are any.
        batch_size: images that are described at once.
        num_workers: processes that read images, for each process.

    Raises:
        ValueError: as `SharedTable` does; or if two images have the same name.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"{len(twice)} names are those of several photos, such as '{printable(twice[0])}': a table cannot tell "
            "them apart. Give them names of their own."
        )
    state = processes()
    if state.is_main_process:
        table.parent.mkdir(parents=True, exist_ok=True)
    state.wait_for_everyone()
    shared = SharedTable(table, columns, settings, state.process_index)
    state.wait_for_everyone()  # nobody writes before all have read what is there
    missing = [number for number, name in enumerate(names) if name not in shared.rows]
    own = missing[state.process_index :: state.num_processes]
    batches = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
    if state.is_main_process:
        logger.info("%d of %d photos are in %s already.", len(names) - len(missing), len(names), table)
    load = functools.cache(load)
    for batch in DataLoader(_Batches(batches, names, read), batch_size=None, num_workers=num_workers):
        if batch:
            described, images = zip(*batch, strict=True)
            shared.add(dict(zip(described, load(state.device)(described, images), strict=True)))
    state.wait_for_everyone()
    if state.is_main_process:
        shared.finish(names)
        having = sum(bool(shared.rows.get(name)) for name in names)
        logger.info("%s has rows of %d of the %d photos.", table, having, len(names))


class _Batches(Dataset[list[tuple[str, Tensor]]]):
    """Batches of names and images; those that cannot be read are reported and left out."""

    def __init__(self, batches: list[list[int]], names: Sequence[str], read: Callable[[int], Tensor]) -> None:
        self.batches = batches
        self.names = names
        self.read = read

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> list[tuple[str, Tensor]]:
        images = []
        for each in self.batches[number]:
            try:
                images.append((self.names[each], self.read(each)))
            except ImageFileError as error:
                logger.warning("Left out: %s.", printable(f"{self.names[each]} {error}"))
        return images


def load_tagger(folder: str, device: torch.device) -> Describe:
    """Load a tagger that gives each image a row with its tags."""
    tags_of = load_tags(folder, device)
    return lambda _, images: [[(tags,)] for tags in tags_of(images)]


def load_tags(folder: str, device: torch.device) -> Callable[[Sequence[Tensor]], list[str]]:
    """Load a tagger that gives the tags of each of some images [3, height, width] in [0, 1], separated by commas."""
    tagger = load_pretrained(Tagger, folder).to(device).eval()

    @torch.no_grad()
    def tags_of(images: Sequence[Tensor]) -> list[str]:
        pixels = torch.cat([tagger.preprocess(image[None].to(device)) for image in images])
        return [", ".join(tags) for tags in tagger.tags(tagger(pixels).logits)]

    return tags_of


def load_captioner(model: str, device: torch.device) -> Captioner:
    """Load a captioner, in half precision on a GPU.

    Raises:
        OSError, ValueError: as `Captioner.from_pretrained` does.
    """
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    return Captioner.from_pretrained(model, device, dtype)


def load_clip_scores(folder: str, device: torch.device) -> Callable[[Tensor, Sequence[str]], list[float]]:
    """Load a CLIP that gives the cosine similarities of an image [3, height, width] and some texts."""
    clip = load_pretrained(CLIPModel, folder).to(device).eval()
    tokenizer = load_pretrained(CLIPTokenizer, folder)
    size = clip.config.vision_config.image_size

    @torch.no_grad()
    def scores(image: Tensor, texts: Sequence[str]) -> list[float]:
        pixels = normalise_for_clip(resize(image[None].to(device), (size, size)))
        outputs = clip(input_ids=token_ids([*texts], tokenizer).to(device), pixel_values=pixels)
        similarities: list[float] = (outputs.image_embeds @ outputs.text_embeds.T)[0].tolist()
        return similarities

    return scores
