"""Measure how well a tagger names what degraded photos show: OP and OR (SeeSR, Eq. 3), to compare DAPE and RAM.

    python training/evaluate_tags.py --train_data_dir PHOTOS --tags_file annotations.csv --tagger runs/dape

The tagger sees crops of the photos, degraded and enlarged as in the training of DAPE. A tag counts only if it is among
those of the tagger and those of the annotations: COCO's, say, tell nothing about what is not among their categories.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_settings import DegradationConfig
from diffusers_sr.data.lists import training_photos
from diffusers_sr.data.photos import PhotoFiles
from diffusers_sr.data.tags import photo_tags
from diffusers_sr.evaluation.tags import overall_precision_and_recall
from diffusers_sr.image.pixels import resize
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.seesr.tagger import Tagger
from diffusers_sr.training.script import run_script


@torch.no_grad()
def measure(crops: PhotoCrops, count: int, tagger: Tagger) -> tuple[float, float]:
    """Compute OP and OR on the first `count` crops."""
    predicted, annotated = [], []
    for index in range(count):
        crop: dict[str, Any] = crops[index]
        enlarged = resize(crop["degraded"][None], crop["target"].shape[-2:]).to(tagger.device)
        (tags,) = tagger.tags(tagger(tagger.preprocess(enlarged)).logits)
        predicted.append({*tags})
        annotated.append({tag.strip() for tag in crop["tags"].split(",")})
    judged = {*tagger.config.tags} & set().union(*annotated)
    return overall_precision_and_recall([tags & judged for tags in predicted], [tags & judged for tags in annotated])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data_dir", required=True, help="folder of photographs, searched recursively")
    parser.add_argument("--tags_file", required=True, help="CSV file with the columns file and tags: what they show")
    parser.add_argument("--tagger", required=True, help="folder of the tagger")
    parser.add_argument("--resolution", type=int, default=512, help="side of the crops, in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of crops and degradation (%(default)s)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device (%(default)s)"
    )
    options = parser.parse_args(argv)

    paths = training_photos(options.train_data_dir, None)
    tags = photo_tags(options.tags_file, PhotoFiles(paths))
    crops = PhotoCrops(paths, options.resolution, options.seed, DegradationConfig(), tags=tags)
    tagger = load_pretrained(Tagger, options.tagger).to(options.device).eval()
    precision, recall = measure(crops, len(paths), tagger)
    print(f"OP {precision:.4f}  OR {recall:.4f}  ({len(paths)} crops)")


if __name__ == "__main__":
    run_script(main)
