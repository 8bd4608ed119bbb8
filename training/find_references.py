"""Find similar photographs for each one, by CLIP: the references CoSeR is trained with.

    python training/find_references.py --train_data_dir PHOTOS --output references.csv

The file has the columns file, reference and similarity; a file made in any other way will do as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import CLIPVisionModelWithProjection

from diffusers_sr.coser.clip import load_clip
from diffusers_sr.coser.cognition import CLIP, normalise_for_clip
from diffusers_sr.data.lists import training_photos
from diffusers_sr.data.names import unique_names
from diffusers_sr.data.photos import read_image
from diffusers_sr.data.references import nearest_photos, write_references
from diffusers_sr.image.pixels import resize
from diffusers_sr.training.script import run_script


@torch.no_grad()
def embeddings(paths: list[Path], clip: CLIPVisionModelWithProjection) -> torch.Tensor:
    """Compute CLIP's embeddings [photos, channels] of whole photos, stretched to its square."""
    size = clip.config.image_size
    photos = (read_image(path)[None].to(clip.device) / 255 for path in paths)
    return torch.cat([clip(normalise_for_clip(resize(photo, (size, size)))).image_embeds for photo in photos]).cpu()


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
    names = unique_names(paths)
    write_references(options.output, nearest_photos(names, embeddings(paths, clip), options.count))


if __name__ == "__main__":
    run_script(main)
