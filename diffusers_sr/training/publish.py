"""Publishing the result of a training: the options, and what is uploaded to the Hub."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, ModelCard
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from ..controlled import ControlledPipeline
from ..hub import BASE_COMPONENTS
from ..pipeline import SuperResolutionPipeline
from ..pretrained.files import ModelFolderError, read_json
from ..pretrained.loading import INDEX_FILE, component_class, read_pipeline_index
from ..publishing.model_card import CardDetails, picture_paths, render_model_card
from ..publishing.repository import create_repository, folder_files, upload_files
from ..publishing.shareable import is_hub_id
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


def publisher(arguments: Any, pipeline_class: type[SuperResolutionPipeline]) -> Callable[[Path], None] | None:
    """Make the function that uploads the pipeline that a trainer leaves; None without `push_to_hub`. See `uploader`.

    Args:
        arguments: `UploadArguments` or `HubArguments` that are `TrainingArguments` too, and have a
            `pretrained_model_name_or_path`.
        pipeline_class: class of the pipeline.

    Raises:
        ValueError: if the token could be seen in Weights & Biases, or `hub_content` is unknown.
        HfHubHTTPError: if the token does not allow creating the repository.
    """
    content = getattr(arguments, "hub_content", "pipeline")
    if content not in CONTENTS:
        raise ValueError(f"--hub_content {content!r}, expected one of {', '.join(CONTENTS)}.")

    def upload(output_dir: Path, repo_id: str) -> None:
        publish(
            output_dir,
            pipeline_class,
            arguments.pretrained_model_name_or_path,
            repo_id,
            content=content,
            token=arguments.hub_token,
        )

    return uploader(arguments, upload)


def publish(
    output_dir: Path,
    pipeline_class: type[SuperResolutionPipeline],
    base: str,
    repo_id: str,
    *,
    content: str = "pipeline",
    private: bool | None = None,
    token: str | None = None,
    details: CardDetails | None = None,
) -> CommitInfo:
    """Upload the pipeline in a trainer's output folder, with a model card, in one commit.

    Args:
        output_dir: the folder of the pipeline. The model card also shows what `training_arguments.json` and the folder
            `validation` hold, if they are there.
        pipeline_class: class of the pipeline.
        base: the Stable Diffusion it was trained on, a folder or a Hub id.
        repo_id: "owner/name", or a name in your own namespace; it is created if it does not exist.
        content: "pipeline" uploads the whole pipeline, with the base; "adapter" only the scheduler and the models of
            the method.
        private, token: see `SuperResolutionPipeline.push_to_hub`.
        details: what the model card says beyond what is found: `results`, a `license`.

    Raises:
        FileNotFoundError: if only the models of the method are asked for, and ControlNet or adapter is missing.
        ModelFolderError: if the folder does not hold the pipeline.
        HfHubHTTPError, RuntimeError, ValueError: see `SuperResolutionPipeline.push_to_hub`.
    """
    if content == "pipeline":
        pipeline = pipeline_class.from_pretrained(output_dir)
        details = _complete(details or pipeline.card_details, output_dir, base, token)
        if not issubclass(pipeline_class, ControlledPipeline):
            # What is trained started from the base's weights, and is under their licence.
            details = replace(details, license=details.license or details.base_license)
        return pipeline.push_to_hub(repo_id, private=private, token=token, card=details)
    kinds = trained_models(output_dir, pipeline_class)
    details = _complete(details or CardDetails(), output_dir, base, token)
    index = read_pipeline_index(output_dir)
    usual = pipeline_class._call_defaults
    call_defaults = {name: value for name, value in index["call_defaults"].items() if value != usual.get(name)}
    library, class_name = index["scheduler"]
    kinds["scheduler"] = component_class(library, class_name, "scheduler", output_dir / INDEX_FILE)
    repo_id = create_repository(repo_id, private, token)
    found = folder_files(output_dir, kinds)
    files = {path: file for path, file in found.items() if file.suffix != ".py"} | picture_paths(details)
    card = render_model_card(repo_id, pipeline_class, details, kinds, call_defaults)
    return upload_files(repo_id, files, card, f"Upload {', '.join(kinds)}", token)


def trained_models(output_dir: Path, pipeline_class: type[SuperResolutionPipeline]) -> dict[str, Any]:
    """Find the classes of those components of the pipeline that the folder holds, besides the base's.

    Raises:
        FileNotFoundError: if the folder lacks the ControlNet or the adapter.
    """
    names = [name for name in inspect.signature(pipeline_class).parameters if name not in BASE_COMPONENTS]
    configs = {name: output_dir / name / "config.json" for name in names}
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
