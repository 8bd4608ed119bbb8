"""The run of a trainer of a method's models: from its loss to the pipeline that they make with the base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, SchedulerMixin
from torch.utils.data import Dataset

from ..hub import BASE_COMPONENTS
from ..pipeline import SuperResolutionPipeline
from ..pretrained.base_component import BaseComponent
from ..publishing.shareable import is_hub_id
from .adversarial import ONE_STEP_CALL, AdversarialLoss, one_step_scheduler
from .engine import train
from .last_line import try_it
from .losses import DenoisingLoss
from .publish import publisher
from .trainable import TrainableDenoiser
from .validation import enlarge_with, pipeline_of, validation_call


def train_pipeline(
    loss: DenoisingLoss | AdversarialLoss,
    samples: Dataset[Any],
    arguments: Any,
    pipeline_class: type[SuperResolutionPipeline],
    scheduler: SchedulerMixin,
    call: Mapping[str, Any],
    **components: Any,
) -> None:
    """Train a method's models, save the pipeline they make with the base and, if that was asked for, publish it.

    Args:
        loss: holds the models.
        samples: what they are trained on.
        arguments: `DenoiserArguments` that are `HubArguments` too.
        pipeline_class: class of the pipeline.
        scheduler: the pipeline's scheduler.
        call: the pipeline's call defaults, where they differ from those of its class.
        components: further components of the pipeline, by name, that the training does not need.
    """
    denoiser, base = loss.denoiser, arguments.pretrained_model_name_or_path

    def save(output_dir: Path) -> None:
        save_pipeline(output_dir, pipeline_class, denoiser, base, scheduler, call, **components)

    enlarge = enlarge_with(pipeline_class, denoiser, scheduler, **{**call, **validation_call(arguments)})
    publish = publisher(arguments, pipeline_class)
    train(loss, samples, arguments, save, enlarge, publish, try_it(arguments.output_dir))


def train_one_step_pipeline(
    loss: AdversarialLoss,
    samples: Dataset[Any],
    arguments: Any,
    pipeline_class: type[SuperResolutionPipeline],
    scheduler: DDPMScheduler,
    **call: Any,
) -> None:
    """Call `train_pipeline` for models that take one step from the last timestep, without guidance."""
    call = {**ONE_STEP_CALL, **call}
    train_pipeline(loss, samples, arguments, pipeline_class, one_step_scheduler(scheduler), call)


def save_pipeline(
    folder: Path,
    pipeline_class: type[SuperResolutionPipeline],
    denoiser: TrainableDenoiser,
    base: str,
    scheduler: SchedulerMixin,
    call: Mapping[str, Any],
    **components: Any,
) -> None:
    """Write the folder of the pipeline that trained models make with their base.

    What is the base's is only named if the base is on the Hub, and copied if it is a folder. Trained models that are
    not the pipeline's, such as XPSR's constraint, are written too. The other arguments are those of `train_pipeline`.

    Args:
        folder: where to write.
        denoiser: holds the models, which are moved to the CPU.
        base: folder or Hub id of the base.
    """
    denoiser.to("cpu").eval()
    pipeline = pipeline_of(pipeline_class, denoiser, scheduler, call_defaults=dict(call), **components)
    if is_hub_id(base):
        named = {name: BaseComponent.of(pipeline.components[name], base, name) for name in BASE_COMPONENTS}
        pipeline.register_modules(**named)
    pipeline.save_pretrained(folder)
    for name in denoiser.models.keys() - pipeline.components.keys():
        denoiser.models[name].save_pretrained(folder / name)
