"""Publishing the result of a training: the options, and what is uploaded to the Hub."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, SchedulerMixin
from huggingface_hub import CommitInfo, ModelCard
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from ..pipeline import SuperResolutionPipeline
from ..pretrained.files import ModelFolderError, read_json
from ..pretrained.loading import load_pretrained
from ..publishing.model_card import CardDetails, picture_paths, render_model_card
from ..publishing.repository import create_repository, folder_files, upload_files
from ..publishing.shareable import is_hub_id
from .adversarial import ONE_STEP_CALL, one_step_scheduler
from .arguments import option
from .upload import UploadArguments, uploader

CONTENTS = ("pipeline", "adapter")


@dataclass(kw_only=True)
class HubArguments(UploadArguments):
    """The options of the trainers whose models make a pipeline with the base."""

    hub_content: str = option(
        "pipeline",
        "What to upload: pipeline (with the base) or adapter (only the models that are used with the base).",
    )


def publisher(
    arguments: Any,
    pipeline_class: type[SuperResolutionPipeline],
    call_defaults: Mapping[str, Any] | None = None,
    scheduler: SchedulerMixin | None = None,
) -> Callable[[Path], None] | None:
    """Make the function that uploads the result of a training; None without `push_to_hub`. See `uploader`.

    Args:
        arguments: `HubArguments` that are `TrainingArguments` too, and have a `pretrained_model_name_or_path`.
        pipeline_class: class of the pipeline that the trained models make with the base.
        call_defaults: the pipeline's call defaults, where they differ from those of its class.
        scheduler: the pipeline's scheduler, if it is not the base's.

    Raises:
        ValueError: if the token could be seen in Weights & Biases, or `hub_content` is unknown.
        HfHubHTTPError: if the token does not allow creating the repository.
    """
    if arguments.hub_content not in CONTENTS:
        raise ValueError(f"--hub_content {arguments.hub_content!r}, expected one of {', '.join(CONTENTS)}.")

    def upload(output_dir: Path, repo_id: str) -> None:
        publish(
            output_dir,
            pipeline_class,
            arguments.pretrained_model_name_or_path,
            repo_id,
            content=arguments.hub_content,
            call_defaults=call_defaults,
            scheduler=scheduler,
            token=arguments.hub_token,
        )

    return uploader(arguments, upload)


def pipeline_publisher(arguments: Any, pipeline_class: type[SuperResolutionPipeline]) -> Callable[[Path], None] | None:
    """Make a `publisher` for trainers whose output folder is that of a whole pipeline."""

    def upload(output_dir: Path, repo_id: str) -> None:
        base, token = arguments.pretrained_model_name_or_path, arguments.hub_token
        pipeline = pipeline_class.from_pretrained(output_dir)
        details = _complete(pipeline.card_details, output_dir, base, token)
        # What is trained started from the base's weights, and is under their licence.
        details = replace(details, license=details.license or details.base_license)
        pipeline.push_to_hub(repo_id, token=token, card=details)

    return uploader(arguments, upload)


def one_step_publisher(
    arguments: Any, pipeline_class: type[SuperResolutionPipeline], scheduler: DDPMScheduler, **call_defaults: Any
) -> Callable[[Path], None] | None:
    """Make a `publisher` for `AdversarialLoss`: by default one step from the last timestep, without guidance."""
    return publisher(
        arguments,
        pipeline_class,
        {**ONE_STEP_CALL, **call_defaults},
        one_step_scheduler(scheduler),
    )


def publish(
    output_dir: Path,
    pipeline_class: type[SuperResolutionPipeline],
    base: str,
    repo_id: str,
    *,
    content: str = "pipeline",
    call_defaults: Mapping[str, Any] | None = None,
    scheduler: SchedulerMixin | None = None,
    private: bool | None = None,
    token: str | None = None,
    details: CardDetails | None = None,
) -> CommitInfo:
    """Upload the models in a trainer's output folder, with a model card, in one commit.

    Args:
        output_dir: holds a folder for each model of the method. The model card also shows what
            `training_arguments.json` and the folder `validation` hold, if they are there.
        pipeline_class: class of the pipeline that the models make with the base.
        base: the Stable Diffusion they were trained on, a folder or a Hub id.
        repo_id: "owner/name", or a name in your own namespace; it is created if it does not exist.
        content: "pipeline" uploads the whole pipeline, with the base; "adapter" only the models of the method.
        call_defaults: the pipeline's call defaults, where they differ from those of its class.
        scheduler: the pipeline's scheduler, if it is not the base's.
        private, token: see `SuperResolutionPipeline.push_to_hub`.
        details: what the model card says beyond what is found: `results`, a `license`.

    Raises:
        FileNotFoundError: if the folder lacks the ControlNet or the adapter.
        HfHubHTTPError, RuntimeError, ValueError: see `SuperResolutionPipeline.push_to_hub`.
    """
    kinds = trained_models(output_dir, pipeline_class)
    usual = pipeline_class._call_defaults
    call_defaults = {name: value for name, value in (call_defaults or {}).items() if value != usual.get(name)}
    details = _complete(details or CardDetails(), output_dir, base, token)
    if content == "pipeline":
        models = {name: load_pretrained(kind, output_dir / name) for name, kind in kinds.items()}
        if scheduler is not None:
            models["scheduler"] = scheduler
        pipeline = pipeline_class.from_pretrained(base, **models, call_defaults=call_defaults)
        return pipeline.push_to_hub(repo_id, private=private, token=token, card=details)
    repo_id = create_repository(repo_id, private, token)
    with tempfile.TemporaryDirectory() as folder:
        files = folder_files(output_dir, kinds) | picture_paths(details)
        if scheduler is not None:
            scheduler.save_pretrained(Path(folder, "scheduler"))
            files |= folder_files(Path(folder), ["scheduler"])
            kinds["scheduler"] = type(scheduler)
        card = render_model_card(repo_id, pipeline_class, details, kinds, call_defaults)
        return upload_files(repo_id, files, card, f"Upload {', '.join(kinds)}", token)


def trained_models(output_dir: Path, pipeline_class: type[SuperResolutionPipeline]) -> dict[str, Any]:
    """Find the classes of those components of the pipeline that the folder holds.

    Raises:
        FileNotFoundError: if the folder lacks the ControlNet or the adapter.
    """
    configs = {name: output_dir / name / "config.json" for name in inspect.signature(pipeline_class).parameters}
    if missing := [name for name in ("controlnet", "adapter") if not configs[name].is_file()]:
        raise FileNotFoundError(
            f"{output_dir} has no folder {' and no folder '.join(missing)}: give the output folder of a trainer of "
            f"{pipeline_class.__name__}."
        )
    return {name: _model_class(path, pipeline_class) for name, path in configs.items() if path.is_file()}


def _model_class(config: Path, pipeline_class: type) -> Any:
    """Find a model's class in the first package, of those that the pipeline's class and its bases are from."""
    name = str(read_json(config).get("_class_name"))
    packages = (import_module(kind.__module__.partition(".")[0]) for kind in pipeline_class.__mro__)
    kinds = (getattr(package, name) for package in packages if hasattr(package, name))
    if (kind := next(kinds, None)) is None:
        raise ModelFolderError(f"{config} has the class {name}, which is not a model of {pipeline_class.__name__}.")
    return kind


def _complete(details: CardDetails, output_dir: Path, base: str, token: str | None) -> CardDetails:
    """Fill in what is not given from the output folder and the base's card."""
    arguments = output_dir / "training_arguments.json"
    training = json.loads(arguments.read_text()) if arguments.is_file() else None
    pictures = sorted((output_dir / "validation").glob("step-*.png"), key=lambda path: int(path.stem[len("step-") :]))
    return replace(
        details,
        base_model=details.base_model or base,
        base_license=details.base_license or _license(base, token),
        training=details.training or training,
        pictures=details.pictures or pictures[-1:],
    )


def _license(base: str, token: str | None) -> str | None:
    """Read the licence from the base's own card."""
    card = base if is_hub_id(base) else Path(base) / "README.md"
    try:
        return ModelCard.load(card, token=token, ignore_metadata_errors=True).data.license
    except (EntryNotFoundError, HfHubHTTPError, ValueError):  # the last for a folder without a card
        return None
