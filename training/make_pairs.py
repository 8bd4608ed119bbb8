"""Write degraded crops of photographs with their originals, for a strong model to enlarge.

    python training/make_pairs.py --train_data_dir PHOTOS --degradation everyday --count 2000 --output_dir pairs

`pairs/low` has the degraded crops and `pairs/high` the originals, by the same names. Enlarge `pairs/low` four times
with any program into a folder, say `pairs/teacher`; `train_one_step.py --pairs_lr_dir pairs/low --pairs_hr_dir
pairs/teacher` learns from the result. An interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_mixture import DEGRADATIONS
from diffusers_sr.data.lists import training_photos
from diffusers_sr.image.pictures import write_image
from diffusers_sr.training.script import run_script


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data_dir", required=True, help="folder of photographs, searched recursively")
    parser.add_argument("--exclude_data", help="file that lists photos to leave out, one name per line")
    parser.add_argument("--degradation", choices=DEGRADATIONS, default="everyday", help="(%(default)s)")
    parser.add_argument("--resolution", type=int, default=256, help="side of the originals in pixels (%(default)s)")
    parser.add_argument("--count", type=int, default=2000, help="number of pairs (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of crops and degradation (%(default)s)")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)
    crops = PhotoCrops(
        training_photos(options.train_data_dir, options.exclude_data),
        options.resolution,
        options.seed,
        degradation=DEGRADATIONS[options.degradation],
        sharpen_target=False,
    )
    low, high = options.output_dir / "low", options.output_dir / "high"
    for folder in (low, high):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(options.count):
        name = f"{number:06}.png"
        if (low / name).exists():  # the last of the two that is written
            continue
        sample: dict[str, Any] = crops[number]
        write_image(high / name, sample["target"])
        write_image(low / name, sample["degraded"])


if __name__ == "__main__":
    run_script(main)
