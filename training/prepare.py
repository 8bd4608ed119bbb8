"""Write WebDataset shards of photographs, or of crops of them, with tags or captions.

    python training/prepare.py --train_data_dir PHOTOS --tags_file tags.csv --output_dir SHARDS
    python training/prepare.py --train_data_dir PHOTOS --tagger TAGGER --crop_size 512 --output_dir SHARDS
    python training/prepare.py --dataset_name user/name --caption_column text --output_dir SHARDS

Trainers read them with --train_shards_path_or_url SHARDS. Photos come from one of --train_data_dir, --dataset_name and
--train_shards_path_or_url; tags or captions from at most one of --tags_file, --prompts_dir and --tagger, or else from
the photos' own source.

Several processes, as `accelerate launch` starts them, share the work. After an interruption the same command
continues: complete shards are kept, and in the end all of them are the same as without an interruption. Photos that
cannot be read, or are smaller than --crop_size, are skipped and counted; SHARDS/NUMBER.skipped.log says which and why.
With --resize_mode, photos of any size become squares of --crop_size.

A shard is a tar file of NAME.jpg (or .png, ...), NAME.txt with the tags or caption, and NAME.json with the photo's
file name. The packages webdataset and datasets read them too; datasets only if all images have the same suffix.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator, PartialState
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffusers_sr.data.photos import Photos, StoredPhoto, read_file, read_image
from diffusers_sr.data.shards import write_shard
from diffusers_sr.data.squares import fit
from diffusers_sr.image.decoding import ImageFileError, open_image
from diffusers_sr.image.formats import SUFFIX_OF
from diffusers_sr.image.names import printable
from diffusers_sr.training.arguments import PhotoArguments, option, parse_arguments
from diffusers_sr.training.photos import stored_photos
from diffusers_sr.training.progress import with_progress
from diffusers_sr.training.ranges import Count, CountFromZero
from diffusers_sr.training.script import run_script
from diffusers_sr.training.text import PromptArguments, check_texts, read_texts

# Hidden, so that `datasets` finds nothing but shards in the folder.
SETTINGS = ".shards.json"


@dataclass(kw_only=True)
class PrepareArguments(PhotoArguments, PromptArguments):
    """The options: what to write, and where it comes from."""

    output_dir: str = field(metadata={"help": "Folder of the shards."})
    tagger: str | None = option(None, "Instead: folder of a SeeSR tagger, which tags each photo or crop.")
    crop_size: Count | None = option(
        None, "Write PNG crops with this side in pixels, which cover each photo evenly; by default whole photos."
    )
    photos_per_shard: Count = option(1000, "Number of photos whose files or crops go into one shard.")
    num_workers: CountFromZero = option(
        0, "Processes that write shards in parallel; their number does not change the shards."
    )

    def __post_init__(self) -> None:
        """Check all options, and that they go together."""
        super().__post_init__()
        if self.resize_mode != "crop" and self.crop_size is None:
            raise ValueError(f"--resize_mode {self.resize_mode} makes squares: give their side, --crop_size.")
        if sum(source is not None for source in (self.tags_file, self.prompts_dir, self.tagger)) > 1:
            raise ValueError("Tags or captions come from one of --tags_file, --prompts_dir and --tagger.")
        if self.tagger is not None and self.num_workers > 0:
            raise ValueError(
                "A tagger does not work in loader workers: leave out --num_workers, and start several processes by "
                "`accelerate launch`, one for each GPU."
            )


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """A formatter that shows defaults and leaves the description unchanged."""


class ShardWriter(Dataset[int]):
    """Shards by number; getting one writes it, completely or not at all.

    Args:
        photos: all photos.
        folder: folder for the shards, which has to exist.
        tags: tags or captions by name, or a function that gives those of an image [3, height, width] in [0, 1].
            Photos that are not named keep their own.
        crop_size: side of the crops in pixels, or None for whole photos.
        photos_per_shard: number of photos for a shard.
        resize_mode: what is done with photos before crops are cut: see `squares.fit`.
    """

    def __init__(
        self,
        photos: Photos,
        folder: Path,
        tags: dict[str, str] | Callable[[Tensor], str],
        crop_size: int | None,
        photos_per_shard: int,
        resize_mode: str = "crop",
    ) -> None:
        self.photos = photos
        self.folder = folder
        self.tags = tags
        self.crop_size = crop_size
        self.photos_per_shard = photos_per_shard
        self.resize_mode = resize_mode
        self._repeated = {stem for stem, count in Counter(map(_stem, photos.names)).items() if count > 1}

    def __len__(self) -> int:
        return math.ceil(len(self.photos) / self.photos_per_shard)

    def path(self, number: int) -> Path:
        """Give the path of a shard."""
        return self.folder / f"{number:05d}.tar"

    def missing(self, numbers: range) -> list[int]:
        """List those of these shards that are not written yet."""
        return [number for number in numbers if not self.path(number).is_file()]

    def __getitem__(self, number: int) -> int:
        write_shard(self.path(number), self._samples(number))
        return number

    def _samples(self, shard: int) -> Iterator[StoredPhoto]:
        skipped = []
        start = shard * self.photos_per_shard
        numbers = range(start, min(start + self.photos_per_shard, len(self.photos)))
        for number in with_progress(numbers, len(numbers), f"photos of {self.path(shard).name}"):
            photo = self.photos[number]
            if isinstance(self.tags, dict):
                photo = photo._replace(tags=self.tags.get(photo.name, photo.tags))
            # Photos whose names differ only in the suffix keep it, since all of them may become PNG.
            stem = photo.name if _stem(photo.name) in self._repeated else _stem(photo.name)
            try:
                samples = (
                    [_whole(photo, stem)]
                    if self.crop_size is None
                    else _crops(photo, stem, self.crop_size, self.resize_mode)
                )
            except ImageFileError as error:
                skipped.append(printable(f"{photo.name} {error}"))
            else:
                for sample in samples:
                    if not isinstance(self.tags, dict):
                        sample = sample._replace(tags=self.tags(read_image(sample.file) / 255))
                    yield sample
        # Before the shard gets its name, so that every complete shard has its log.
        text = "".join(f"{line}\n" for line in skipped)
        self.path(shard).with_suffix(".skipped.log").write_text(text, encoding="utf-8")


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _whole(photo: StoredPhoto, stem: str) -> StoredPhoto:
    """Read the photo's file, after checking that it can be decoded."""
    pixels = read_image(photo.file)
    content = read_file(photo.file)
    with open_image(content) as image:
        suffix = SUFFIX_OF.get(str(image.format))  # photos of other formats become PNG
    name = photo.name if Path(photo.name).suffix else f"{photo.name}{suffix or '.png'}"
    if suffix is None:
        return photo._replace(name=f"{stem}.png", file=_png(pixels))
    return photo._replace(name=name, file=content)


def _crops(photo: StoredPhoto, stem: str, side: int, resize_mode: str) -> list[StoredPhoto]:
    pixels = fit(read_image(photo.file), side, resize_mode)
    height, width = pixels.shape[-2:]
    places = [(top, left) for top in _starts(height, side) for left in _starts(width, side)]
    return [
        photo._replace(
            name=f"{stem}_{number:03d}.png",
            file=_png(pixels[:, top : top + side, left : left + side]),
        )
        for number, (top, left) in enumerate(places)
    ]


def _starts(length: int, side: int) -> list[int]:
    """Find the starts of the fewest crops that cover a length evenly."""
    count = math.ceil(length / side)
    return [(length - side) * number // max(count - 1, 1) for number in range(count)]


def _png(pixels: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
    return file.getvalue()


def _load_tagger(folder: str) -> Callable[[Tensor], str]:
    from diffusers_sr.training.descriptions import load_tags

    tags_of = load_tags(folder, PartialState().device)
    return lambda image: tags_of([image])[0]


def _check_settings(folder: Path, settings: dict[str, object]) -> None:
    path = folder / SETTINGS
    if not path.is_file():
        unfinished = folder / f"{SETTINGS}.unfinished"
        unfinished.write_text(json.dumps(settings) + "\n", encoding="utf-8")
        unfinished.replace(path)
        return
    before = {"resize_mode": "crop", **json.loads(path.read_text(encoding="utf-8"))}  # older ones do not record it
    if different := [name for name in settings if before.get(name) != settings[name]]:
        raise ValueError(
            f"The shards in {folder} were started with another value of {' and '.join(different)}: give the options "
            "they were started with, or another --output_dir."
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the missing shards, and print how many there are then.

    Raises:
        ValueError: if `stored_photos` raises it; if tags come from several sources, or from one that does not fit the
            photos; if the folder holds shards of other photos, tags or sizes; or if no photo can be used.
    """
    arguments = parse_arguments(PrepareArguments, argv, description=__doc__, formatter_class=_HelpFormatter)
    photos = stored_photos(arguments)
    tags = read_texts(arguments, photos)
    if tags:
        check_texts(photos, tags, arguments.allow_missing_text)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, object] = {
        "crop_size": arguments.crop_size,
        "photos_per_shard": arguments.photos_per_shard,
        "tagger": arguments.tagger,
        "photos": _digest([*photos.names]),
        "tags": _digest(tags),
        "resize_mode": arguments.resize_mode,
    }
    accelerator = Accelerator()
    with accelerator.main_process_first():
        _check_settings(folder, settings)

    tagger = None if arguments.tagger is None else _load_tagger(arguments.tagger)
    shards = ShardWriter(
        photos, folder, tagger or tags, arguments.crop_size, arguments.photos_per_shard, arguments.resize_mode
    )
    if accelerator.is_main_process:
        complete = len(shards) - len(shards.missing(range(len(shards))))
        print(f"{len(photos)} photos, {len(shards)} shards, {complete} of them complete", flush=True)
    missing = shards.missing(range(accelerator.process_index, len(shards), accelerator.num_processes))
    for number in DataLoader(shards, batch_size=None, sampler=missing, num_workers=arguments.num_workers):
        print(f"{shards.path(number).name} is written", flush=True)
    if shards.missing(range(len(shards))):
        return  # the last process reports

    skipped = [line for path in sorted(folder.glob("*.skipped.log")) for line in _lines(path)]
    if len(skipped) == len(photos):
        raise ValueError(f"None of the {len(photos)} photos can be used; the first of them: {skipped[0]}.")
    print(f"{len(photos) - len(skipped)} photos are in {len(shards)} shards; {len(skipped)} were skipped")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


if __name__ == "__main__":
    run_script(main)
