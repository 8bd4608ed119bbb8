"""The record of a result's settings: what somebody else needs to make the result from the photo, and nothing more."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import try_to_load_from_cache

from ..publishing.shareable import is_hub_id, mask_credentials, shareable

if TYPE_CHECKING:
    from ..pipeline import SuperResolutionPipeline

_COMMIT = re.compile(r"[/\\]snapshots[/\\]([0-9a-f]{40})(?:[/\\]|$)")


def settings_record(
    pipeline: SuperResolutionPipeline, options: argparse.Namespace, arguments: Mapping[str, Any]
) -> str:
    """Write the settings of a result as JSON in ASCII: version, model, seed, factor, and what differs from defaults.

    Of paths only the names are left, and credentials are replaced by asterisks.

    Args:
        pipeline: the model.
        options: those of the command.
        arguments: those of the pipeline's call.
    """
    record = {"software": _software(), "model": _name_of_model(options.model)}
    if revision := _revision(options.model):
        record["revision"] = revision
    settings = {"upscale": arguments["upscale"]} | _changed(pipeline, arguments)
    if options.reference is not None:
        settings["reference"] = [path.name for path in options.reference]
    if options.prompts is not None:
        settings["prompts"] = options.prompts.name
    if options.captioner is not None:
        settings["captioner"] = _name_of_model(options.captioner)
    if options.quantize is not None:
        settings["quantize"] = options.quantize
    dtype = str(pipeline.dtype).removeprefix("torch.")
    if dtype != "float32":
        settings["dtype"] = dtype
    return json.dumps(record | {"seed": options.seed, "settings": settings})


def _changed(pipeline: SuperResolutionPipeline, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Find the arguments, numbers and texts, with other values than the model's and the call's defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(type(pipeline).call_class)}
    defaults |= pipeline.config.call_defaults
    return {
        name: mask_credentials(value) if isinstance(value, str) else value
        for name, value in arguments.items()
        if name not in ("upscale", "captioner", "reference_images") and value != defaults[name]
    }


def _name_of_model(model: str) -> str:
    """Give the name that others know a model by: of a folder only its own, or the Hub id if it is in the cache."""
    name: str = shareable(os.path.abspath(model) if os.path.isdir(model) else model)
    return name


def _software() -> str:
    try:
        return f"diffusers-sr {version('diffusers-sr')}"
    except PackageNotFoundError:  # a checkout that is not installed
        return "diffusers-sr"


def _revision(model: str) -> str | None:
    """Find the commit of a model from the Hub."""
    if is_hub_id(model) and "/" in model:
        model = str(try_to_load_from_cache(model, "model_index.json"))
    found = _COMMIT.search(str(Path(model).absolute()))
    return None if found is None else found[1]
