"""Pictures of a run's progress: images before and after, with the current weights."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from PIL import Image
from torch import nn

from ..image.decoding import ImageFileError
from ..image.formats import images_in
from ..image.reader import read_photo
from ..pipeline import SuperResolutionPipeline
from ..sampling.finite import NotFiniteError

logger = logging.getLogger(__name__)

Enlarge: TypeAlias = Callable[[Sequence[Image.Image]], list[Image.Image]]
"""A function that enlarges images with the weights as they are when it is called."""

_GAP = 8


def enlarge_with(
    pipeline_class: type[SuperResolutionPipeline], denoiser: nn.Module, scheduler: DDPMScheduler, **call: Any
) -> Enlarge:
    """Make a function that enlarges images by a method's pipeline with the models that are being trained.

    Args:
        pipeline_class: the method's pipeline class.
        denoiser: holds the pipeline's components, except the scheduler, by name.
        scheduler: the base model's scheduler, which is copied.
        call: arguments of the pipeline's call that differ from its defaults.
    """
    names = inspect.signature(pipeline_class).parameters
    models = {name: getattr(denoiser, name) for name in names if hasattr(denoiser, name)}
    return enlarge_by(pipeline_class(**{**models, "scheduler": DDPMScheduler.from_config(scheduler.config)}), **call)


def enlarge_by(pipeline: SuperResolutionPipeline, **call: Any) -> Enlarge:
    """Make a function that enlarges images by a pipeline, with arguments of its call."""
    pipeline.set_progress_bar_config(disable=True)

    def enlarge(images: Sequence[Image.Image]) -> list[Image.Image]:
        return [pipeline(image, generator=torch.Generator().manual_seed(0), **call).images[0] for image in images]

    return enlarge


def read_validation_images(folder: str, count: int) -> list[Image.Image]:
    """Read the first `count` images of a folder, by name.

    Raises:
        ValueError: if there is no such folder, or no image in it.
        ImageFileError: if one cannot be read.
    """
    paths = images_in(Path(folder)) if Path(folder).is_dir() else []
    if not paths:
        raise ValueError(f"--validation_images {folder!r} has to be a folder that holds images.")
    return [_read(path) for path in paths[:count]]


def _read(path: Path) -> Image.Image:
    try:
        return read_photo(path).image
    except ImageFileError as error:
        raise ImageFileError(f"--validation_images: {path} {error}") from error


def before_after_grid(before: Sequence[Image.Image], after: Sequence[Image.Image]) -> Image.Image:
    """Draw a row for each pair: the image before, enlarged bicubically to the size of the result, and the result."""
    rows = list(zip(before, after, strict=True))
    width = max(image.width for image in after)
    grid = Image.new("RGB", (2 * width + _GAP, sum(image.height + _GAP for image in after) - _GAP), "white")
    top = 0
    for small, large in rows:
        grid.paste(small.resize(large.size, Image.Resampling.BICUBIC), (0, top))
        grid.paste(large, (width + _GAP, top))
        top += large.height + _GAP
    return grid


def log_validation(
    accelerator: Accelerator, images: Sequence[Image.Image], enlarge: Enlarge, output_dir: Path, step: int
) -> None:
    """Write `validation/step-<step>.png` and log it to the trackers that show images, TensorBoard and W&B.

    If the weights give no finite values, that is logged instead, and the run goes on: its loss says whether it can.
    """
    try:
        with accelerator.autocast():
            grid = before_after_grid(images, enlarge(images))
    except NotFiniteError as error:
        logger.error("There is no validation picture of step %d: %s", step, error)
        return
    path = output_dir / "validation" / f"step-{step}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        grid.save(path)
    except OSError as error:  # a full disk is no reason to end the run
        logger.error("%s could not be written: %s", path, error)
    for tracker in accelerator.trackers:
        if tracker.name in ("tensorboard", "wandb"):
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"validation": np.asarray(grid)[None]}, step=step, **options)
