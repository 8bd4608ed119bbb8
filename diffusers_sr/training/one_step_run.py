"""The run of a trainer of one-step models: from its options and its loss to the published pipeline."""

from __future__ import annotations

from typing import Any

from ..data.degradation_mixture import DEGRADATIONS
from ..one_step.pipeline import OneStepPipeline
from .engine import train
from .one_step import OneStepArguments, OneStepLoss
from .photos import degraded_crops
from .publish import pipeline_publisher


def train_one_step(loss: OneStepLoss, arguments: OneStepArguments, **validation_call: Any) -> None:
    """Train a one-step model on degraded crops of the photos, save it and, if that was asked for, publish it.

    Args:
        validation_call: arguments of the calls that enlarge the validation images.
    """
    denoiser = loss.denoiser
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    crops = degraded_crops(arguments, degradation=DEGRADATIONS[arguments.degradation])
    publish = pipeline_publisher(arguments, OneStepPipeline)
    train(loss, crops, arguments, denoiser.save, denoiser.enlarge(**validation_call), publish)
