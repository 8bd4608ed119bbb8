"""Find similar photographs for each one, by CLIP: the references CoSeR is trained with.

    python training/find_references.py --train_data_dir PHOTOS --output references.csv

The file has the columns file, reference and similarity; a file made in any other way will do as well.

CLIP's embeddings, which take most of the time, are kept in a hidden folder beside the output until it is written.
After an interruption the same command continues. Then each photo is compared with all others, on the device. The
embeddings of 900,000 photos take 3.7 GB, and as much again while they are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModelWithProjection

from diffusers_sr.coser.clip import load_clip
from diffusers_sr.coser.cognition import CLIP, normalise_for_clip
from diffusers_sr.data.lists import training_photos
from diffusers_sr.data.names import unique_names
from diffusers_sr.data.photos import read_image
from diffusers_sr.data.references import nearest_photos, write_references
from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.image.partial import whole_file
from diffusers_sr.image.pixels import resize
from diffusers_sr.training.script import run_script

PHOTOS_PER_PART = 1000


@torch.no_grad()
def embeddings(paths: Sequence[Path], clip: CLIPVisionModelWithProjection) -> torch.Tensor:
    """Compute CLIP's embeddings [photos, channels] of whole photos, stretched to its square."""
    size = clip.config.image_size
    photos = (_read(path)[None].to(clip.device) / 255 for path in paths)
    return torch.cat([clip(normalise_for_clip(resize(photo, (size, size)))).image_embeds for photo in photos]).cpu()


def _read(path: Path) -> torch.Tensor:
    try:
        return read_image(path)
    except ImageFileError as error:
        raise ImageFileError(f"{path} {error}. Leave it out with --exclude_data.") from error


def kept_embeddings(paths: Sequence[Path], clip: CLIPVisionModelWithProjection, folder: Path) -> torch.Tensor:
    """Give the `embeddings` of photos, those of every `PHOTOS_PER_PART` from a file in the folder, if it is there."""
    folder.mkdir(exist_ok=True)
    whole = torch.empty(0)
    for start in range(0, len(paths), PHOTOS_PER_PART):
        part = paths[start : start + PHOTOS_PER_PART]
        path = folder / f"{start:08d}.safetensors"
        if not path.is_file():
            with whole_file(path) as unfinished:
                save_file({"embeddings": embeddings(part, clip)}, unfinished)
            print(f"CLIP has seen {start + len(part)} of {len(paths)} photos", flush=True)
        values = load_file(path)["embeddings"]
        if start == 0:
            whole = values.new_empty(len(paths), values.shape[1])
        whole[start : start + len(part)] = values
    return whole


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--train_data_dir", nargs="+", required=True, help="folder of photographs, searched recursively; or several"
    )
    parser.add_argument("--exclude_data", help="file that lists photos to leave out, one name per line")
    parser.add_argument("--clip", default=CLIP, help="CLIP's vision model: a folder or a Hub id (%(default)s)")
    parser.add_argument(
        "--count", type=int, default=10, help="references for each photo (%(default)s, as in the paper)"
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device (%(default)s)"
    )
    parser.add_argument("--output", type=Path, required=True, help="CSV file to write")
    options = parser.parse_args(argv)

    paths = training_photos(options.train_data_dir, options.exclude_data)
    clip = load_clip(options.clip).to(options.device)
    asked = json.dumps([str(options.clip), *map(str, paths)]).encode()
    digest = hashlib.blake2b(asked, digest_size=8).hexdigest()
    folder = options.output.with_name(f".{options.output.name}.{digest}.embeddings")
    found = kept_embeddings(paths, clip, folder).to(options.device)
    write_references(options.output, nearest_photos(unique_names(paths), found, options.count))
    shutil.rmtree(folder)


if __name__ == "__main__":
    run_script(main)
