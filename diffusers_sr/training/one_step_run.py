"""The run of a trainer of one-step models: from its options and its loss to the published pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from ..data.degradation_mixture import DEGRADATIONS
from ..one_step.pipeline import OneStepPipeline
from .engine import train
from .last_line import try_it
from .one_step import OneStepArguments, OneStepLoss
from .photos import degraded_crops
from .publish import publisher


def train_one_step(
    loss: OneStepLoss,
    arguments: OneStepArguments,
    call: Mapping[str, Any],
    samples: Dataset[Any] | None = None,
) -> None:
    """Train a one-step model, save it and, if that was asked for, publish it.

    Args:
        call: arguments of the calls that enlarge the validation images.
        samples: what it is trained on, by default degraded crops of the photos.
    """
    denoiser = loss.denoiser
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    if samples is None:
        samples = degraded_crops(arguments, degradation=DEGRADATIONS[arguments.degradation])
    if arguments.validation_num_inference_steps not in (None, 1):
        steps = arguments.validation_num_inference_steps
        raise ValueError(f"--validation_num_inference_steps {steps}: a one-step model takes one step; leave it out.")
    enlarge = denoiser.enlarge(**{**call, "upscale": arguments.validation_upscale})
    publish = publisher(arguments, OneStepPipeline)
    train(loss, samples, arguments, denoiser.save, enlarge, publish, try_it(arguments.output_dir))
