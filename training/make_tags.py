"""Write a table of tags or captions of photographs, for --tags_file of the trainers and of prepare.py.

    accelerate launch training/make_tags.py --train_data_dir PHOTOS --tagger TAGGER --output tags.csv
    accelerate launch training/make_tags.py --train_shards_path_or_url CROPS --tagger TAGGER --output tags.csv
    accelerate launch training/make_tags.py --train_data_dir PHOTOS --captioner MODEL --output captions.csv

Photos of a folder are described whole. Crops are those of shards that prepare.py --crop_size 512 wrote: SeeSR's
official code has RAM tag clean crops of 512 pixels. A captioner gives a caption for each of --instructions. With
--clip the table has a column weight, each caption's similarity to the photo by CLIP: training draws one by it.

Several processes share the work. After an interruption the same command continues, also with another number of
processes, and so it does if there are new photos. Photos that cannot be read are reported, and have no row.
"""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from diffusers_sr.data.photos import PhotoFiles, Photos, read_image
from diffusers_sr.data.shared_table import Cells
from diffusers_sr.data.tables import read_rows
from diffusers_sr.image.pictures import to_picture
from diffusers_sr.training.arguments import PhotoArguments, option, parse_arguments
from diffusers_sr.training.descriptions import (
    Describe,
    load_captioner,
    load_clip_scores,
    load_tagger,
    write_descriptions,
)
from diffusers_sr.training.photos import stored_photos
from diffusers_sr.training.ranges import Count, CountFromZero, Share, Weight
from diffusers_sr.training.script import run_script
from diffusers_sr.xpsr.captioner import HIGH_LEVEL_INSTRUCTION


@dataclass(kw_only=True)
class TagArguments(PhotoArguments):
    """The options: which photos are described, and what describes them."""

    output: str = field(metadata={"help": "CSV file to write, with the columns file and tags."})
    tagger: str | None = option(None, "Folder of a SeeSR tagger, such as RAM, that names what a photo shows.")
    captioner: str | None = option(
        None, "Instead: an image-text-to-text model with a chat template that describes it, a folder or a Hub id."
    )
    instructions: list[str] = field(
        default_factory=lambda: [HIGH_LEVEL_INSTRUCTION],
        metadata={"help": "What a captioner is asked about each photo; every answer is a caption."},
    )
    clip: str | None = option(None, "Weight captions by their similarity to the photo: a CLIP, a folder or a Hub id.")
    min_clip_score: Share = option(0.28, "Similarity below which a caption is left out.")
    classes_file: str | None = option(
        None, "CSV file with the columns folder and class: captions begin with 'a photo of' the class of their folder."
    )
    class_weight: Weight = option(0.5, "Weight of the caption that is no more than 'a photo of' the class.")
    batch_size: Count = option(8, "Photos that are described at once.")
    num_workers: CountFromZero = option(0, "Processes that read photos, for each process that describes them.")

    def __post_init__(self) -> None:
        """Check all options, and that they go together."""
        super().__post_init__()
        if (self.tagger is None) == (self.captioner is None):
            raise ValueError("Photos are described by one of --tagger and --captioner.")
        if self.tagger is not None and self.clip is not None:
            raise ValueError("--clip weights captions: give --captioner instead of --tagger.")
        if self.clip is None and (self.classes_file is not None or len(self.instructions) > 1):
            raise ValueError("Several captions of a photo, and those of classes, are weighted by CLIP: give --clip.")


def table_names(arguments: TagArguments, photos: Photos) -> Sequence[str]:
    """Name photos as the table does: by their path in the folder, of several folders whole, or by their own names."""
    if not isinstance(photos, PhotoFiles):
        return photos.names
    if len(folders := arguments.photo_folders) > 1:
        return [path.as_posix() for path in photos.paths]
    return [path.relative_to(folders[0]).as_posix() for path in photos.paths]


def read_photo(photos: Photos, number: int) -> Tensor:
    return read_image(photos[number].file) / 255


def weighted_captions(
    captions: Sequence[str], scores: Sequence[float], least: float, subject: str | None, class_weight: float
) -> list[Cells]:
    """Give the rows of a photo as in CoSeR: captions with their scores, and one that only names its class.

    Captions with a score below `least` are left out. If that leaves nothing, as of a photo without a class, the best
    one stays.
    """
    scored = sorted(zip(captions, scores, strict=True), key=lambda each: -each[1])
    kept = [(caption, score) for caption, score in scored if score >= least]
    if subject is not None:
        named = [(f"a photo of {subject}, {caption}", score) for caption, score in kept]
        kept = [(f"a photo of {subject}", class_weight), *named]
    return [(caption, f"{max(weight, 1e-4):.4f}") for caption, weight in kept or scored[:1]]


def captions_of(arguments: TagArguments, device: torch.device) -> Describe:
    """Load the captioner and, if there is one, the CLIP; equal captions of a photo count once."""
    assert arguments.captioner is not None
    captioner = load_captioner(arguments.captioner, device)
    scores = None if arguments.clip is None else load_clip_scores(arguments.clip, device)
    classes: dict[str, str] = {}
    if arguments.classes_file is not None:
        classes = {row["folder"]: row["class"] for _, row in read_rows(arguments.classes_file, ("folder", "class"))}

    def describe(names: Sequence[str], images: Sequence[Tensor]) -> list[list[Cells]]:
        pictures = [to_picture(image) for image in images]
        answers = [captioner.answer(pictures, instruction) for instruction in arguments.instructions]
        rows: list[list[Cells]] = []
        for name, image, *texts in zip(names, images, *answers, strict=True):
            captions = [*dict.fromkeys(map(str, filter(None, texts)))]
            if scores is None:
                rows.append([(caption,) for caption in captions or [""]])
            else:
                subject = classes.get(PurePosixPath(name).parent.name)
                own = scores(image, captions) if captions else []
                rows.append(
                    weighted_captions(captions, own, arguments.min_clip_score, subject, arguments.class_weight)
                )
        return rows

    return describe


def main(argv: Sequence[str] | None = None) -> None:
    """Describe the photos that are not in the table.

    Raises:
        ValueError: if `stored_photos` or `write_descriptions` raises it.
        OSError: if the tagger, the captioner or the CLIP cannot be loaded.
    """
    arguments = parse_arguments(TagArguments, argv, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    photos = stored_photos(arguments)
    options = ("captioner", "instructions", "clip", "min_clip_score", "classes_file", "class_weight")

    def load(device: torch.device) -> Describe:
        return captions_of(arguments, device) if arguments.tagger is None else load_tagger(arguments.tagger, device)

    write_descriptions(
        Path(arguments.output),
        ("tags",) if arguments.clip is None else ("tags", "weight"),
        {name: getattr(arguments, name) for name in (options if arguments.tagger is None else ("tagger",))},
        table_names(arguments, photos),
        partial(read_photo, photos),
        load,
        arguments.batch_size,
        arguments.num_workers,
    )


if __name__ == "__main__":
    run_script(main)
