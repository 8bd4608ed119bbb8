"""The model card of a published super-resolution model: metadata for the Hub, and what a person needs to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .paper import Paper
from .shareable import code, fenced, inline, is_hub_id, shareable
from .stubs import PACKAGE

CODE_LICENSE = "apache-2.0"
PICTURES = "pictures"
"""The folder of a repository that holds what its card shows."""

RENDERED = "<!-- Rendered by diffusers-sr, and anew with the next upload. To keep what you write, delete this. -->"

# Measures of `diffusers_sr.evaluation.measures`: the Hub's name for their kind, and the heading of their column.
_MEASURES = {
    "psnr_y": ("psnr", "PSNR-Y, dB"),
    "ssim_y": ("ssim", "SSIM-Y"),
    "gmsd": ("gmsd", "GMSD"),
    "log_power_spectrum_distance": ("log_power_spectrum_distance", "log power-spectrum distance"),
    "mean_color_difference": ("mean_color_difference", "mean colour difference, /255"),
}

# Options of a run that say nothing about the weights, only about where it ran and how it was monitored.
_UNTOLD_OPTIONS = ("output_dir", "checkpoint", "validation", "log_every", "report_to", "hub_", "_hub", "num_workers")
_DATA_OPTIONS = ("dataset_name", "train_data_dir", "train_shards_path_or_url")

_TEMPLATE = Path(__file__).with_name("model_card_template.md")


@dataclass(frozen=True, kw_only=True)
class CardDetails:
    """The details of a model card that cannot be seen from the models.

    Args:
        base_model: the Stable Diffusion that the weights belong to. A Hub id is linked; a folder is given by its name.
        base_license: its licence, by the Hub's identifiers, such as "openrail++".
        license: licence of the weights; None if it is the base's.
        terms: what the weights' terms of use are, in words, where the licence's name does not say it.
        training: the options of the last training stage, as `training_arguments.json` has them.
        results: what was measured; see `eval_results`.
        pictures: image files that show the model's work; they are uploaded with the card.
        paper: the one to credit, if the pipeline's class stands for models of several papers.
    """

    base_model: str | None = None
    base_license: str | None = None
    license: str | None = None
    terms: str | None = None
    training: Mapping[str, Any] | None = None
    results: Sequence[EvalResult] = ()
    pictures: Sequence[Path] = ()
    paper: Paper | None = None


def eval_results(dataset: str, measures: Mapping[str, float], scale: float = 4.0) -> list[EvalResult]:
    """Put results in the form that the Hub shows.

    Args:
        dataset: name of the photographs that were degraded and restored.
        measures: means by the name of the measure, such as those of `training/evaluate.py`.
        scale: how many times as wide and high the photographs became.

    Raises:
        ValueError: if there is no measure of that name in `diffusers_sr.evaluation.measures`.
    """
    if unknown := sorted(measures.keys() - _MEASURES.keys()):
        raise ValueError(f"There are no measures {unknown}; allowed are {sorted(_MEASURES)}.")
    return [
        EvalResult(
            task_type="image-to-image",
            task_name=f"×{scale:g} super-resolution",
            dataset_type="".join(letter if letter.isalnum() else "-" for letter in dataset.lower()),
            dataset_name=dataset,
            metric_type=_MEASURES[name][0],
            metric_name=_MEASURES[name][1],
            metric_value=value,
        )
        for name, value in measures.items()
    ]


def picture_paths(details: CardDetails) -> dict[str, Path]:
    """Map the pictures' paths in the repository to their files.

    Raises:
        ValueError: if two have the same name.
    """
    paths = {f"{PICTURES}/{path.name}": path for path in details.pictures}
    if len(paths) < len(details.pictures):
        raise ValueError(f"Pictures need different names, but these are {[path.name for path in details.pictures]}.")
    return paths


def render_model_card(
    repo_id: str,
    pipeline_class: type[Any],
    details: CardDetails,
    components: Mapping[str, type] | None = None,
    call_defaults: Mapping[str, Any] | None = None,
) -> ModelCard:
    """Render the card of a repository.

    Args:
        repo_id: its full id on the Hub.
        pipeline_class: the method's pipeline, a class of this package or derived from one; it names the `paper` and,
            in `example_call`, the arguments of a call that an example needs besides the image.
        details: everything else that is known.
        components: classes by component, if the repository holds these models alone, to be used with a base.
        call_defaults: the pipeline's defaults that the example has to set, as such a repository cannot hold them.

    Raises:
        ValueError: if the repository holds no base and none is named.
    """
    own = next(kind for kind in pipeline_class.__mro__ if _package(kind) == PACKAGE).__name__
    paper = details.paper or pipeline_class.paper
    license = details.license or details.base_license
    name = repo_id.rpartition("/")[2]
    training = None if details.training is None else _recipe(details.training)
    data = ModelCardData(
        license=license or "unknown",
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=[
            "diffusers",
            *(["diffusers-training"] if training is not None else []),
            "super-resolution",
            paper.name.lower(),
            f"arxiv:{paper.arxiv}",
        ],
        base_model=details.base_model if is_hub_id(details.base_model) else None,
        datasets=dataset if is_hub_id(dataset := (training or {}).get("dataset_name")) else None,
        model_name=name,
        eval_results=list(details.results) or None,
    )
    call = _call(pipeline_class.example_call)
    if components is None:
        example = _pipeline_example(repo_id, own, call)
    else:
        if details.base_model is None:
            raise ValueError(f"{repo_id} holds only {sorted(components)}: name the base_model they belong to.")
        base = shareable(details.base_model)
        example = _components_example(repo_id, own, base, components, call_defaults or {}, call)
    return ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        rendered=RENDERED,
        name=name,
        repo_id=repo_id,
        paper=paper,
        base=_linked(details.base_model),
        components=list(components or ()),
        example=example,
        pictures=list(picture_paths(details)),
        code_license=CODE_LICENSE,
        # What is not a string at all is left for the Hub to refuse, whose message says more.
        base_license=None if details.base_license is None else inline(str(details.base_license)),
        weights_license=None if license is None else inline(str(license)),
        terms=None if details.terms is None else inline(details.terms),
        inherited=details.license is None and license is not None,
        results=_results_table(details.results),
        training=None if training is None else _summary(training),
        recipe=None if training is None else fenced(yaml.safe_dump(training, allow_unicode=True).strip(), "yaml"),
    )


def _linked(model: str | None) -> str | None:
    if model is None:
        return None
    return f"[`{model}`](https://huggingface.co/{model})" if is_hub_id(model) else code(shareable(model))


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _call(arguments: Mapping[str, Any]) -> str:
    options = "".join(f", {name}={value!r}" for name, value in arguments.items()).replace("'", '"')
    return f'image = pipeline(Image.open("photo.png"), upscale=4{options}).images[0]\nimage.save("enlarged.png")'


def _pipeline_example(repo_id: str, own: str, call: str) -> str:
    return f"""import torch
from PIL import Image
from {PACKAGE} import {own}

device = "cuda" if torch.cuda.is_available() else "cpu"
pipeline = {own}.from_pretrained("{repo_id}").to(device)
{call}"""


def _components_example(
    repo_id: str,
    own: str,
    base: str,
    components: Mapping[str, type],
    call_defaults: Mapping[str, Any],
    call: str,
) -> str:
    names: dict[str, set[str]] = {PACKAGE: {own}}
    for kind in components.values():
        names.setdefault(_package(kind), set()).add(kind.__name__)
    ours = ", ".join(sorted(names.pop(PACKAGE)))
    others = "".join(f"from {package} import {', '.join(sorted(names[package]))}\n" for package in sorted(names))
    models = "\n".join(
        f'    {name}={kind.__name__}.from_pretrained("{repo_id}", subfolder="{name}"),'
        for name, kind in components.items()
    )
    defaults = f"\n    call_defaults={dict(call_defaults)!r}," if call_defaults else ""
    return f"""import torch
{others}from PIL import Image
from {PACKAGE} import {ours}

device = "cuda" if torch.cuda.is_available() else "cpu"
pipeline = {own}.from_pretrained(
    "{base}",
{models}{defaults}
).to(device)
{call}"""


def _results_table(results: Sequence[EvalResult]) -> str:
    columns = list(dict.fromkeys(result.metric_name or result.metric_type for result in results))
    rows: dict[str, dict[str, Any]] = {}
    for result in results:
        row = f"{result.dataset_name}, {result.task_name}" if result.task_name else result.dataset_name
        rows.setdefault(inline(row), {})[result.metric_name or result.metric_type] = result.metric_value
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    for row, values in rows.items():
        lines.append([row, *(f"{values[column]:.4g}" if column in values else "" for column in columns)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) if results else ""


def _recipe(training: Mapping[str, Any]) -> dict[str, Any]:
    """Select the options that the weights depend on."""
    return {
        name: shareable(value)
        for name, value in training.items()
        if value not in (None, []) and not any(part in name for part in _UNTOLD_OPTIONS)
    }


def _summary(recipe: Mapping[str, Any]) -> str:
    batches = recipe["gradient_accumulation_steps"]
    summary = (
        f"{recipe['max_train_steps']:,} optimiser steps, each on {recipe['train_batch_size']} samples per process"
        f"{f' times {batches} accumulated batches' if batches > 1 else ''}; crops of {recipe['resolution']} pixels; "
        f"learning rate {recipe['learning_rate']:g}."
    )
    data = next((recipe[name] for name in _DATA_OPTIONS if name in recipe), None)
    if data is None:
        return summary
    folders = data if isinstance(data, list) else [data]
    return f"{summary} Data: {', '.join(code(str(each)) for each in folders)}."
