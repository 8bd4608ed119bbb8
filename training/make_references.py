"""Make the references CasSR is trained with: training crops, degraded, and activated by a trained SCEdit.

    accelerate launch training/make_references.py --train_data_dir PHOTOS --num_samples 100000 \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --scedit runs/scedit \
        --output_dir references

Several processes share the work, and an interrupted run continues where it stopped. The options that determine the
crops have to be those of the training: --seed, --resolution, --exclude_data, --sharpen_target, --resize_mode,
--degradation and --train_data_weights.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import send_to_device
from diffusers import DDIMScheduler
from torch.utils.data import default_collate

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_mixture import DEGRADATIONS, at_low_resolution
from diffusers_sr.data.made_references import crop_settings, reference_path, write_settings
from diffusers_sr.data.squares import RESIZE_MODES
from diffusers_sr.image.pictures import write_image
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.training.cassr import ACTIVATIONS, TrainableSCEdit
from diffusers_sr.training.photos import folder_photos
from diffusers_sr.training.progress import with_progress
from diffusers_sr.training.script import run_script
from diffusers_sr.training.trainable import load_frozen_base


def batches_to_do(folder: Path, count: int, batch_size: int, accelerator: Accelerator) -> Iterator[list[int]]:
    """List the samples of this process that have no reference yet, in batches."""
    own = range(accelerator.process_index, count, accelerator.num_processes)
    rest = [index for index in own if not reference_path(folder, index).exists()]
    yield from (rest[start : start + batch_size] for start in range(0, len(rest), batch_size))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--train_data_dir", nargs="+", required=True, help="folder of photographs, searched recursively; or several"
    )
    parser.add_argument("--train_data_weights", nargs="+", type=float, help="weights of several folders")
    parser.add_argument("--exclude_data", help="file that lists photos to leave out, one name per line")
    parser.add_argument("--resolution", type=int, default=512, help="side of the crops, in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (%(default)s)")
    parser.add_argument("--resize_mode", choices=RESIZE_MODES, default="crop", help="(%(default)s)")
    parser.add_argument("--degradation", choices=DEGRADATIONS, default="seesr", help="(%(default)s)")
    parser.add_argument("--sharpen_target", action="store_true", help="degrade USM-sharpened crops")
    parser.add_argument("--num_samples", type=int, required=True, help="number of crops that get a reference")
    parser.add_argument(
        "--pretrained_model_name_or_path", required=True, help="Stable Diffusion: a folder or a Hub id"
    )
    parser.add_argument("--scedit", required=True, help="output folder of train_scedit.py")
    parser.add_argument(
        "--activation", choices=tuple(ACTIVATIONS), default="scedit", help="what was trained there (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (%(default)s)")
    parser.add_argument("--guidance_scale", type=float, default=7.5, help="weight of the prompt (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=4, help="samples per batch (%(default)s)")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)

    accelerator = Accelerator()
    crops = PhotoCrops(
        folder_photos(options.train_data_dir, options.exclude_data, weights=options.train_data_weights),
        options.resolution,
        options.seed,
        at_low_resolution(DEGRADATIONS[options.degradation]),
        options.sharpen_target,
        resize_mode=options.resize_mode,
    )
    with accelerator.main_process_first():
        write_settings(options.output_dir, crop_settings(crops, options.num_samples))
    base = load_frozen_base(options.pretrained_model_name_or_path)
    activation = load_pretrained(ACTIVATIONS[options.activation], options.scedit, "activation")
    denoiser = TrainableSCEdit(base, activation).to(accelerator.device).eval()
    scheduler = DDIMScheduler.from_config(base.scheduler.config, timestep_spacing="trailing")
    batches = [*batches_to_do(options.output_dir, options.num_samples, options.batch_size, accelerator)]
    for indices in with_progress(batches, len(batches), "batches of references"):
        batch = send_to_device(default_collate([crops[index] for index in indices]), accelerator.device)
        for index, image in zip(
            indices, denoiser.sample(batch, scheduler, options.steps, options.guidance_scale), strict=True
        ):
            write_image(reference_path(options.output_dir, index), image)
    option = shlex.join(["--references_dir", str(options.output_dir), "--scedit", options.scedit])
    accelerator.print(f"The references are in {options.output_dir}. Next comes: training/train_cassr.py {option} ...")


if __name__ == "__main__":
    run_script(main)
