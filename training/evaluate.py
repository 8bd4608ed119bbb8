"""Measure a model against bicubic enlargement on photographs that the Real-ESRGAN recipe degrades.

    python training/evaluate.py --data PHOTOS --list training/recipes/held_out_photos.txt --model seesr-small

Photo number i is degraded with seed `--first-seed` + i, so that every run measures the same inputs. It prints a
Markdown table of means; `--pictures` also writes each photo's input, and input, bicubic, result and original side by
side. Photos that cannot be measured are reported and counted out; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusers_sr import load_pipeline
from diffusers_sr.data.degradation import degrade
from diffusers_sr.data.degradation_settings import DegradationConfig
from diffusers_sr.data.lists import list_images, listed_names
from diffusers_sr.data.photos import read_image
from diffusers_sr.data.seeds import sample_generator
from diffusers_sr.evaluation.measures import evaluate
from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.image.pixels import resize
from diffusers_sr.training.script import run_script

SCALE = 4
SMALLEST = 12  # pixels of a side: the window of SSIM, and whole pixels of the degraded photo


def degraded_pair(path: Path, seed: int, max_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Read a photo cut to a multiple of the scale, [1, 3, H, W], and degrade it, [1, 3, H / 4, W / 4].

    With `max_size` a longer side is cropped, not shrunk, to that many pixels around the centre.

    Raises:
        ImageFileError: if it cannot be read, or is too small to be measured.
    """
    photo = read_image(path).float() / 255
    if min(photo.shape[-2:]) < SMALLEST:
        height, width = photo.shape[-2:]
        raise ImageFileError(f"is {width}x{height} pixels: to measure it, each side has to have at least {SMALLEST}")
    height, width = (min(side, max_size or side) // SCALE * SCALE for side in photo.shape[-2:])
    top, left = (photo.shape[-2] - height) // 2, (photo.shape[-1] - width) // 2
    photo = photo[:, top : top + height, left : left + width]
    return photo[None], degrade(photo, sample_generator(0, seed), DegradationConfig(), SCALE)[None]


def to_pil(image: Tensor) -> Image.Image:
    """Convert [1, 3, H, W] in [0, 1] to a picture."""
    return Image.fromarray((image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def side_by_side(images: list[Tensor]) -> Image.Image:
    """Put pictures of the same height in a row, with narrow gaps."""
    pictures = [to_pil(image) for image in images]
    row = Image.new("RGB", (sum(p.width for p in pictures) + 8 * (len(pictures) - 1), pictures[0].height), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + 8
    return row


def picture_names(paths: list[Path]) -> dict[Path, str]:
    """Name each photo's pictures: after its stem, with a number if another photo has the same."""
    names: dict[str, Path] = {}
    for path in paths:
        candidates = chain([path.stem], (f"{path.stem}_{number}" for number in count(2)))
        names[next(name for name in candidates if name not in names)] = path
    return {path: name for name, path in names.items()}


def call_argument(text: str) -> tuple[str, Any]:
    """Read name and value from "name=value"."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main() -> None:
    """Run the command line.

    Raises:
        ImageFileError: at the end, if there are photos that cannot be measured.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of photographs")
    parser.add_argument("--list", help="file that lists the photos to measure, one name per line; all by default")
    parser.add_argument(
        "--model", default="seesr-small", help="model to measure, as diffusers_sr.load_pipeline takes it"
    )
    parser.add_argument("--steps", type=int, help="denoising steps; the model's own by default")
    parser.add_argument("--guidance-scale", type=float, help="guidance scale; the model's own by default")
    parser.add_argument("--color-fix", default="default", help="adain, wavelet or none; the model's own by default")
    parser.add_argument(
        "--call",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another argument of the pipeline's call, a JSON value or a text, such as activation=lr; repeatable",
    )
    parser.add_argument(
        "--first-seed", type=int, default=0, help="seed the first photo is degraded with (%(default)s)"
    )
    parser.add_argument("--max-size", type=int, help="crop longer sides to this many pixels around the centre")
    parser.add_argument("--pictures", type=Path, help="folder for comparison pictures")
    options = parser.parse_args()

    paths = list_images(options.data)
    if options.list is not None:
        names = listed_names(options.list, paths)
        paths = [path for path in paths if path.name in names]
    names_of_pictures = picture_names(paths)
    pipeline = load_pipeline(options.model)
    pipeline.set_progress_bar_config(disable=True)
    metrics: dict[str, dict[str, list[float]]] = {"bicubic": defaultdict(list), options.model: defaultdict(list)}
    unmeasured: list[str] = []
    for index, path in enumerate(paths):
        try:
            photo, degraded = degraded_pair(path, options.first_seed + index, options.max_size)
        except ImageFileError as error:
            print(f"{path}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            unmeasured.append(str(path))
            continue
        height, width = photo.shape[-2:]
        bicubic = resize(degraded, (height, width))
        result = pipeline(
            degraded,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance_scale,
            color_fix=None if options.color_fix == "none" else options.color_fix,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
            **dict(map(call_argument, options.call)),
        ).images
        for name, image in (("bicubic", bicubic), (options.model, result)):
            for metric, value in evaluate(photo, image).items():
                metrics[name][metric].append(value)
        if options.pictures is not None:
            options.pictures.mkdir(parents=True, exist_ok=True)
            nearest = torch.nn.functional.interpolate(degraded, scale_factor=SCALE)
            to_pil(degraded).save(options.pictures / f"{names_of_pictures[path]}_input.png")
            comparison = side_by_side([nearest, bicubic, result, photo])
            comparison.save(options.pictures / f"{names_of_pictures[path]}_{Path(options.model).name}.jpg", quality=90)

    if len(unmeasured) < len(paths):
        print_table(metrics, len(paths) - len(unmeasured))
    if unmeasured:
        named = ", ".join(unmeasured[:5]) + (", …" if len(unmeasured) > 5 else "")
        raise ImageFileError(f"{len(unmeasured)} of {len(paths)} photos could not be measured: {named}")


def print_table(metrics: dict[str, dict[str, list[float]]], count: int) -> None:
    """Print the means of bicubic and of the model, which come in this order, and their ratios."""
    rows = {name: {metric: sum(v) / len(v) for metric, v in values.items()} for name, values in metrics.items()}
    bicubic, model = rows.values()
    print(f"| {count} photos | " + " | ".join(bicubic) + " |")
    print("|---|" + "---|" * len(bicubic))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |")
    print("| ratio | " + " | ".join(f"{model[metric] / bicubic[metric]:.2f}" for metric in bicubic) + " |", flush=True)


if __name__ == "__main__":
    run_script(main)
