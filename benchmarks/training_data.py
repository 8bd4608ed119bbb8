"""What a training waits for besides its steps: `python benchmarks/training_data.py`.

- The start with shards of a million photos, for the first time and with their index beside them. The shards hold
  headers and captions as real ones do, and images of one byte.
- The samples that one core loads each second: reading, decoding, cropping, sharpening and degrading photos of
  1024×1024 pixels, by the processor time of the process.
- A checkpoint of weights and AdamW's state: how long the training stops for it, and how long until it is on the disk.

Everything is written to a temporary folder; `--folder` says on which disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_settings import DegradationConfig
from diffusers_sr.data.photos import StoredPhoto
from diffusers_sr.data.shards import ShardPhotos, list_shards, write_shard
from diffusers_sr.training.arguments import TrainingArguments
from diffusers_sr.training.checkpoint_writer import CheckpointWriter
from diffusers_sr.training.checkpointing import Progress, checkpoint_trainable_only

PHOTOS_PER_SHARD = 1000
CAPTION = "building, city, street, car, tree, sky, person, walk, road, window, traffic light, sidewalk, lamp, sign"


def start_up(folder: Path, photos: int) -> None:
    """Print how long the index of shards takes, the first time and the second."""
    for start in range(0, photos, PHOTOS_PER_SHARD):
        numbers = range(start, min(start + PHOTOS_PER_SHARD, photos))
        write_shard(
            folder / f"{start // PHOTOS_PER_SHARD:05d}.tar",
            (StoredPhoto(f"{number:08d}.jpg", b"x", CAPTION) for number in numbers),
        )
    for which in ("first", "second"):
        clock, processor = time.perf_counter(), time.process_time()
        found = ShardPhotos(list_shards(folder))
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        print(f"{len(found):,} photos, {which} start: {clock:.1f} s, {processor:.1f} s of it on the CPU", flush=True)


def loading(folder: Path, samples: int) -> None:
    """Print how many samples a core loads each second."""
    photos = []
    for number in range(8):
        noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(number))
        pixels = 255 * torch.nn.functional.interpolate(noise, size=(1024, 1024), mode="bilinear")[0]
        photos.append(folder / f"{number}.jpg")
        Image.fromarray(pixels.byte().permute(1, 2, 0).contiguous().numpy()).save(photos[-1], quality=95)
    for what, degradation in (("without degradation", None), ("with degradation", DegradationConfig())):
        # Shards keep nothing decoded, as large folders do not.
        crops = PhotoCrops(photos, 512, degradation=degradation)
        crops[0]
        start = time.process_time()
        for index in range(samples):
            crops._decoded.clear()
            crops[index]
        print(f"512x512 {what}: {samples / (time.process_time() - start):.1f} samples/s per core", flush=True)


def checkpoint(folder: Path, gigabytes: float) -> None:
    """Print how long a checkpoint takes whose weights and state have this size."""
    module = torch.nn.ParameterDict({"weight": torch.zeros(round(gigabytes * 1e9 / 12))})
    accelerator = Accelerator(cpu=True)
    optimizer = accelerator.prepare(torch.optim.AdamW(module.parameters()))
    module["weight"].grad = torch.ones_like(module["weight"])
    optimizer.step()
    checkpoint_trainable_only(accelerator, dict(module.named_parameters()))
    arguments = TrainingArguments(output_dir=str(folder))
    writer = CheckpointWriter(accelerator, folder, arguments, saved_step=0)
    start = time.perf_counter()
    writer.save(Progress(1, 1, 1))
    stopped = time.perf_counter() - start
    writer.finish()
    seconds = time.perf_counter() - start
    assert writer.saved_step == 1
    print(f"checkpoint of {gigabytes:.1f} GB: training stops for {stopped:.1f} s, whole after {seconds:.1f} s")


def main() -> None:
    """Measure one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure (the temporary one)")
    parser.add_argument("--photos", type=int, default=1_000_000, help="photos in shards; 3 GB of disk (%(default)s)")
    parser.add_argument("--samples", type=int, default=100, help="samples to load (%(default)s)")
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of the checkpoint (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for measure, size in ((start_up, options.photos), (loading, options.samples), (checkpoint, options.gigabytes)):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measure(Path(folder), size)


if __name__ == "__main__":
    main()
