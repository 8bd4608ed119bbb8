"""Enlarging images during a run, with the weights as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from diffusers import SchedulerMixin
from PIL import Image
from torch import nn

from ..pipeline import SuperResolutionPipeline
from .arguments import TrainingArguments

Enlarge: TypeAlias = Callable[[Sequence[Image.Image]], list[Image.Image]]
"""A function that enlarges images with the weights as they are when it is called."""

_GAP = 8


def pipeline_of(
    pipeline_class: type[SuperResolutionPipeline], denoiser: nn.Module, scheduler: SchedulerMixin, **options: Any
) -> SuperResolutionPipeline:
    """Make a method's pipeline of the models that are being trained.

    Args:
        pipeline_class: the method's pipeline class.
        denoiser: holds the pipeline's components, except the scheduler, by name.
        scheduler: the pipeline's scheduler.
        options: further arguments of the pipeline's constructor.
    """
    names = inspect.signature(pipeline_class).parameters
    models = {name: getattr(denoiser, name) for name in names if hasattr(denoiser, name)}
    return pipeline_class(**{**models, "scheduler": scheduler, **options})


def enlarge_with(
    pipeline_class: type[SuperResolutionPipeline], denoiser: nn.Module, scheduler: SchedulerMixin, **call: Any
) -> Enlarge:
    """Make a function that enlarges images by the pipeline of the models that are being trained.

    Args:
        pipeline_class, denoiser: see `pipeline_of`.
        scheduler: the pipeline's scheduler, which is copied.
        call: arguments of the pipeline's call that differ from its defaults.
    """
    copy = type(scheduler).from_config(scheduler.config)
    return enlarge_by(pipeline_of(pipeline_class, denoiser, copy), **call)


def enlarge_by(pipeline: SuperResolutionPipeline, **call: Any) -> Enlarge:
    """Make a function that enlarges images by a pipeline, with arguments of its call."""
    pipeline.set_progress_bar_config(disable=True)

    def enlarge(images: Sequence[Image.Image]) -> list[Image.Image]:
        return [pipeline(image, generator=torch.Generator().manual_seed(0), **call).images[0] for image in images]

    return enlarge


def validation_call(arguments: TrainingArguments) -> dict[str, Any]:
    """Give the arguments of the pipeline's call that a run's options ask for."""
    steps = arguments.validation_num_inference_steps
    return {"upscale": arguments.validation_upscale} | ({} if steps is None else {"num_inference_steps": steps})


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
