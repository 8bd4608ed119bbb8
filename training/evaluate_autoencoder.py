"""Measure how much of colours and of photographs an autoencoder keeps, before anything is built on it.

    python training/evaluate_autoencoder.py --vae runs/vae --data PHOTOS --list held_out.txt

It prints the gain of each axis of colour on flat patches all over the gamut, that of stripes by their period in
pixels, and means over the photos: PSNR of all channels and along each axis, HaarPSI, GMSD and the distance of log
power spectra. The last row has the quarter of the photos with the most saturated colours. Photos that cannot be
measured are reported; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from diffusers import AutoModel
from torch import Tensor

from diffusers_sr.data.lists import list_images, listed_names
from diffusers_sr.data.photos import read_image
from diffusers_sr.evaluation.autoencoder import reconstruct
from diffusers_sr.evaluation.color import AXES, axis_psnr, color_gains
from diffusers_sr.evaluation.detail import stripe_gains
from diffusers_sr.evaluation.haarpsi import haarpsi
from diffusers_sr.evaluation.measures import gmsd, log_power_spectrum_distance
from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.training.script import run_script

UNIT = 32  # pixels that a side has to be a multiple of: more than any autoencoder of Stable Diffusion asks for


def read_photo(path: Path, max_size: int) -> Tensor:
    """Read the middle of a photo, [1, 3, H, W] in [0, 1], with sides that are multiples of `UNIT` up to `max_size`.

    Raises:
        ImageFileError: if it cannot be read, or is too small.
    """
    photo = read_image(path).float() / 255
    height, width = (min(side, max_size) // UNIT * UNIT for side in photo.shape[-2:])
    if not height or not width:
        raise ImageFileError(f"is {photo.shape[-1]}x{photo.shape[-2]} pixels: each side has to have at least {UNIT}")
    top, left = (photo.shape[-2] - height) // 2, (photo.shape[-1] - width) // 2
    return photo[None, :, top : top + height, left : left + width]


def measures(photo: Tensor, result: Tensor) -> dict[str, float]:
    """Compute all measures of one photo."""
    mean_square = (photo - result).square().mean()
    return {
        "PSNR": float(-10 * torch.log10(mean_square)),
        **{f"PSNR {axis.replace('_', '–')}": axis_psnr(photo, result, axis).item() for axis in AXES},
        "HaarPSI": haarpsi(photo, result).item(),
        "GMSD": gmsd(photo, result).item(),
        "log power-spectrum distance": log_power_spectrum_distance(photo, result).item(),
    }


def saturation(photo: Tensor) -> float:
    """Compute the mean difference between a pixel's largest channel and its smallest."""
    return float((photo.amax(1) - photo.amin(1)).mean())


def main(argv: list[str] | None = None) -> None:
    """Run the command line.

    Raises:
        ImageFileError: at the end, if there are photos that cannot be measured.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", required=True, help="folder of an autoencoder of diffusers")
    parser.add_argument("--data", required=True, help="folder of photographs")
    parser.add_argument("--list", help="file that lists the photos to measure, one name per line; all by default")
    parser.add_argument(
        "--max-size", type=int, default=512, help="crop longer sides to this many pixels (%(default)s)"
    )
    options = parser.parse_args(argv)

    paths = list_images(options.data)
    if options.list is not None:
        names = listed_names(options.list, paths)
        paths = [path for path in paths if path.name in names]
    vae = AutoModel.from_pretrained(options.vae).eval()
    gains = color_gains(lambda patch: reconstruct(vae, patch))
    print("gains: " + ", ".join(f"{axis.replace('_', '–')} {gain:.3f}" for axis, gain in gains.items()), flush=True)
    stripes = stripe_gains(lambda image: reconstruct(vae, image))
    print("stripes: " + ", ".join(f"{period:g} px {gain:.2f}" for period, gain in stripes.items()), flush=True)
    rows: list[tuple[float, dict[str, float]]] = []
    unmeasured: list[str] = []
    for path in paths:
        try:
            photo = read_photo(path, options.max_size)
        except ImageFileError as error:
            print(f"{path}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            unmeasured.append(str(path))
            continue
        rows.append((saturation(photo), measures(photo, reconstruct(vae, photo))))
    if rows:
        print_table([row for _, row in sorted(rows, key=lambda each: each[0])])
    if unmeasured:
        raise ImageFileError(f"{len(unmeasured)} of {len(paths)} photos could not be measured: {unmeasured[0]}")


def print_table(rows: list[dict[str, float]]) -> None:
    """Print the means of all rows, and of the last quarter."""
    print("| | " + " | ".join(rows[0]) + " |")
    print("|---|" + "---|" * len(rows[0]))
    for name, part in ((f"{len(rows)} photos", rows), ("most saturated", rows[-max(1, len(rows) // 4) :])):
        means = [sum(row[measure] for row in part) / len(part) for measure in rows[0]]
        print(f"| {name} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |", flush=True)


if __name__ == "__main__":
    run_script(main)
