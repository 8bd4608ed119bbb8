"""The validation of a run: fixed images, enlarged by all processes, and what the results measure."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image

from ..data.pairs import pair_photos
from ..evaluation.fidelity import psnr, ssim
from ..evaluation.haarpsi import haarpsi
from ..image.decoding import ImageFileError
from ..image.formats import images_in
from ..image.pixels import read_images
from ..image.reader import read_photo
from .arguments import TrainingArguments
from .processes import any_process
from .sigterm import until_sigterm
from .validation import Enlarge, before_after_grid

logger = logging.getLogger(__name__)

MEASURES = {"PSNR": psnr, "SSIM": ssim, "HaarPSI": haarpsi}
"""What is logged of results whose photo is known; PSNR and SSIM are those of Y, as in papers' tables."""

_LEAST_SIDE = 16  # of what HaarPSI takes


@dataclass(frozen=True)
class Validation:
    """The images that are enlarged during a run; see `read_validation`.

    Attributes:
        enlarge: enlarges them.
        images: squares from the middle of images, which are always the same.
        photos: the photos that these are small versions of, cut to the same squares; or an empty list.
    """

    enlarge: Enlarge
    images: list[Image.Image]
    photos: list[Image.Image]

    def run(self, accelerator: Accelerator, step: int, signals: list[int]) -> None:
        """Enlarge the images and log the results: a picture, and what they measure if their photos are known.

        Each process enlarges its share, one image after the other, and none waits longer for another than an image
        takes. What goes wrong is logged, and the run goes on: its loss says whether it can. After SIGTERM there are
        no results.

        Args:
            accelerator: all of its processes have to call this.
            step: the step of the run.
            signals: the list of `notice_sigterm`.
        """
        start = time.monotonic()
        sizes = " ".join(f"{image.width}x{image.height}" for image in self.images)
        accelerator.print(f"validation of step {step} begins: {len(self.images)} image(s), {sizes}", flush=True)
        mine: dict[int, Image.Image] = {}
        for first in range(0, len(self.images), accelerator.num_processes):
            number = first + accelerator.process_index
            if not signals and number < len(self.images):
                result = self._enlarged(accelerator, number, step, signals)
                mine |= {} if result is None else {number: result}
            if any_process(accelerator, bool(signals)):
                accelerator.print(f"validation of step {step} is broken off by SIGTERM", flush=True)
                return
        parts: list[dict[int, Image.Image]] = gather_object([mine])
        results = {number: part[number] for part in parts for number in part}
        if accelerator.is_main_process and results:
            measured = self._measured(results)
            values = "".join(f" {name} {value:.4f}" for name, value in measured.items())
            accelerator.print(f"validation of step {step}:{values} {time.monotonic() - start:.1f} s", flush=True)
            accelerator.log({f"validation/{name}": value for name, value in measured.items()}, step=step)
            numbers = sorted(results)
            grid = before_after_grid([self.images[n] for n in numbers], [results[n] for n in numbers])
            _log_picture(accelerator, grid, step)

    def _enlarged(self, accelerator: Accelerator, number: int, step: int, signals: list[int]) -> Image.Image | None:
        image = self.images[number]
        try:
            with accelerator.autocast():
                results = until_sigterm(signals, lambda: self.enlarge([image]))
        except Exception as error:  # of whatever kind: a run of days must not end by a picture
            logger.error("There is no validation picture %d of step %d: %s", number + 1, step, error)
            return None
        return None if results is None else results[0]

    def _measured(self, results: dict[int, Image.Image]) -> dict[str, float]:
        """Compute the mean of each measure over the results whose photo is known."""
        if not self.photos:
            return {}
        pairs = [(read_images(self.photos[number]), read_images(result)) for number, result in results.items()]
        return {
            name: float(torch.cat([measure(photo, result) for photo, result in pairs]).mean())
            for name, measure in MEASURES.items()
        }


def read_validation(arguments: TrainingArguments, enlarge: Enlarge | None) -> Validation | None:
    """Read the images of `validation_images`; None if that is not given.

    Of each image only a square in its middle is enlarged, whose result has sides of `validation_crop_size`: a whole
    photo would take longer than the steps between.

    Raises:
        ValueError: if there is nothing to enlarge them with; there is no such folder, or no image in it; or the
            photos of `validation_hr_dir` do not match.
        ImageFileError: if one cannot be read.
    """
    if arguments.validation_images is None:
        if arguments.validation_hr_dir is not None:
            raise ValueError("--validation_hr_dir holds the photos of --validation_images: give both, or neither.")
        return None
    if enlarge is None:
        raise ValueError(
            f"--validation_images {arguments.validation_images!r}: the models of this trainer cannot enlarge images."
        )
    scale = arguments.validation_upscale
    paths = _images(arguments.validation_images, "--validation_images")
    photo_paths: list[Path] = []
    if arguments.validation_hr_dir is not None:
        if scale != round(scale):
            raise ValueError(f"--validation_upscale {scale}: with --validation_hr_dir it has to be a whole number.")
        photo_paths = _images(arguments.validation_hr_dir, "--validation_hr_dir")
        paths = pair_photos(photo_paths, paths, round(scale), "--validation_images")
    side = max(1, round((arguments.validation_crop_size or arguments.resolution) / scale))
    count = arguments.num_validation_images
    images = [_middle(_read(path, "--validation_images"), side) for path in paths[:count]]
    photos = [_middle(_read(path, "--validation_hr_dir"), side, round(scale)) for path in photo_paths[:count]]
    if small := [path.name for path, photo in zip(photo_paths, photos, strict=False) if min(photo.size) < _LEAST_SIDE]:
        raise ValueError(f"--validation_hr_dir: {small} have fewer than {_LEAST_SIDE} pixels a side to be measured.")
    return Validation(enlarge, images, photos)


def _images(folder: str, option: str) -> list[Path]:
    paths = images_in(Path(folder)) if Path(folder).is_dir() else []
    if not paths:
        raise ValueError(f"{option} {folder!r} has to be a folder that holds images.")
    return paths


def _read(path: Path, option: str) -> Image.Image:
    try:
        return read_photo(path).image
    except ImageFileError as error:
        raise ImageFileError(f"{option}: {path} {error}") from error


def _middle(image: Image.Image, side: int, scale: int = 1) -> Image.Image:
    """Cut the square in the middle out of an image, or of the photo that is `scale` times as large as the image."""
    width, height = image.width // scale, image.height // scale
    left, top = max(0, width - side) // 2, max(0, height - side) // 2
    right, bottom = min(width, left + side), min(height, top + side)
    return image.crop((scale * left, scale * top, scale * right, scale * bottom))


def _log_picture(accelerator: Accelerator, grid: Image.Image, step: int) -> None:
    """Write `validation/step-<step>.png`, and give it to the trackers that show images, TensorBoard and W&B."""
    path = Path(accelerator.project_dir) / "validation" / f"step-{step}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        grid.save(path)
    except OSError as error:  # a full disk is no reason to end the run
        logger.error("%s could not be written: %s", path, error)
    for tracker in accelerator.trackers:
        if tracker.name in ("tensorboard", "wandb"):
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"validation": np.asarray(grid)[None]}, step=step, **options)
