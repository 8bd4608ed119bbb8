"""Load a pipeline by name: a model of this package, a released one, a local folder, or a repository on the Hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .released.catalogue import ELSEWHERE, RELEASED, by_hand

# Reading the list needs neither torch nor diffusers, whose import takes seconds.
if TYPE_CHECKING:
    import torch

    from .pipeline import SuperResolutionPipeline

METHODS = {
    "seesr": "diffusers_sr.seesr.pipeline.SeeSRPipeline",
    "coser": "diffusers_sr.coser.pipeline.CoSeRPipeline",
    "cassr": "diffusers_sr.cassr.pipeline.CasSRPipeline",
    "xpsr": "diffusers_sr.xpsr.pipeline.XPSRPipeline",
    "pasd": "diffusers_sr.xpsr.pasd.PASDPipeline",
    "one_step": "diffusers_sr.one_step.pipeline.OneStepPipeline",
}
"""The import path of each method's pipeline class: the only list of the methods. All else is read off the class."""

MODELS = Path(__file__).parent / "models"
"""The folder of the package's own small models; `base-small` is a Stable Diffusion that most of them share."""

DEFAULT_METHOD = "one_step"

BASE = "base-small"
BASE_COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet")


def small_model(method: str) -> str:
    """Name the package's own model of a method, whether there is one or not."""
    return f"{method.replace('_', '-')}-small"


DEFAULT_MODEL = small_model(DEFAULT_METHOD)


def pipeline_class(method: str) -> type[SuperResolutionPipeline]:
    """Import the pipeline class of a method.

    Raises:
        ValueError: if there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}, expected one of {', '.join(map(repr, METHODS))}.")
    module, _, name = METHODS[method].rpartition(".")
    kind: type[SuperResolutionPipeline] = getattr(import_module(module), name)
    return kind


def embedded_models() -> list[str]:
    """List the names of the models that are shipped with the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/model_index.json") if path.parent.name != BASE)


def load_pipeline(
    model: str = DEFAULT_MODEL,
    *,
    method: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    **components: Any,
) -> SuperResolutionPipeline:
    """Load a super-resolution pipeline of this package.

    Args:
        model: one of `embedded_models()`, such as "one-step-small" (in the package, nothing is downloaded), a
            folder written by `save_pretrained` or `diffusers-sr convert`, the name of a released model, such as
            "seesr-sd2" (`diffusers-sr models` lists them; it is downloaded and converted the first time), or a Hub
            id. A folder of the name of a released model is taken before it.
        method: the method the model has to belong to, one of `METHODS`; by default any.
        device: torch device the pipeline is moved to.
        dtype: floating-point type of the weights, by default float32.
        components: components that replace the stored ones, or that the folder leaves open.

    Raises:
        ValueError: if the folder or repository holds a pipeline of another package or another method, or if there is
            no such method.
        OSError: if the model cannot be found.
        ReleasedModelError: if a released model cannot be fetched; it is an OSError and a ValueError.
        ModelFolderError: if the folder is damaged, or lacks something; it is an OSError and a ValueError.
    """
    expected = None if method is None else pipeline_class(method).__name__

    import torch
    from diffusers import StableDiffusionPipeline

    is_embedded = model in embedded_models()
    path = str(MODELS / model) if is_embedded else model
    if not is_embedded and not os.path.lexists(model) and (model in RELEASED or model in ELSEWHERE):
        path = str(_released_folder(model, method))
    name = _pipeline_name(path)
    methods = {path.rpartition(".")[2]: method for method, path in METHODS.items()}
    if name not in methods:
        raise ValueError(f"{model!r} holds a {name}; this package loads {', '.join(methods)} (model_index.json).")
    if expected is not None and name != expected:
        raise ValueError(
            f"{model!r} holds a {name}, but method={method!r} is {expected}: give a model of this method, or leave "
            "the method out."
        )
    dtype = dtype or torch.float32
    if is_embedded and stands_on_base(Path(path)):
        base = StableDiffusionPipeline.from_pretrained(MODELS / BASE, dtype=dtype, safety_checker=None)
        components = {name: base.components[name] for name in BASE_COMPONENTS} | components
    pipeline: SuperResolutionPipeline = pipeline_class(methods[name]).from_pretrained(path, dtype=dtype, **components)
    return pipeline.to(device)


def stands_on_base(folder: Path) -> bool:
    """Whether a model of the package leaves its UNet to the base that such models share."""
    return not (folder / "unet").exists()


def _released_folder(name: str, method: str | None) -> Path:
    """Give the folder of a released model, which is fetched and converted if it has not been."""
    from .released.cache import fetch_and_convert
    from .released.errors import ReleasedModelError

    if name in ELSEWHERE:
        raise ReleasedModelError(by_hand(name))
    model = RELEASED[name]
    if method not in (None, model.method):
        raise ValueError(f"{name!r} is a model of method={model.method!r}, not of {method!r}: leave the method out.")
    return fetch_and_convert(name, converter_of(model.method, model.converter))


def converter_of(method: str, name: str) -> Callable[..., None]:
    """Import a converter of official checkpoints, by its name in `diffusers-sr convert`."""
    module, _, function = pipeline_class(method).converters[name].rpartition(".")
    converter: Callable[..., None] = getattr(import_module(module), function)
    return converter


def _pipeline_name(model: str) -> str:
    """Read the name of the class of a pipeline in a folder or in a repository on the Hub."""
    from diffusers import DiffusionPipeline

    from .pretrained.files import ModelFolderError
    from .pretrained.loading import INDEX_FILE, read_pipeline_index

    folder = Path(model)
    if os.path.lexists(folder):
        name = read_pipeline_index(folder)["_class_name"]
    elif model.count("/") > 1 or model.startswith((".", "/", "~")):
        raise ModelFolderError(f"There is no folder {model}, and it is not a Hub id either: give a pipeline's folder.")
    elif "/" not in model:
        raise ModelFolderError(
            f"There is no folder {model}, and no model of this name: `diffusers-sr models` lists the names."
        )
    else:
        name = DiffusionPipeline.load_config(model).get("_class_name")
    if isinstance(name, list):  # the file in the folder that diffusers takes the class from, and the class
        name = name[-1]
    if not name or not isinstance(name, str):
        raise ModelFolderError(f"{INDEX_FILE} of {model} names no class of a pipeline under '_class_name'.")
    return name
