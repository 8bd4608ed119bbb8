"""From a name to a pipeline: the models shipped in this package, a local folder, or a repository on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from .cassr.pipeline import CasSRPipeline
from .coser.pipeline import CoSeRPipeline
from .pipeline import SuperResolutionPipeline
from .seesr.pipeline import SeeSRPipeline
from .xpsr.pipeline import XPSRPipeline

METHODS: dict[str, type[SuperResolutionPipeline]] = {
    "seesr": SeeSRPipeline,
    "coser": CoSeRPipeline,
    "cassr": CasSRPipeline,
    "xpsr": XPSRPipeline,
}
PIPELINES = {pipeline.__name__: pipeline for pipeline in METHODS.values()}

MODELS = Path(__file__).parent / "models"
"""Where the package keeps its own small models; `base-small` holds what they share, a Stable Diffusion pipeline."""

BASE = "base-small"
BASE_COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet")


def embedded_models() -> list[str]:
    """The names of the models that are shipped with the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/model_index.json") if path.parent.name != BASE)


def load_pipeline(
    model: str = "seesr-small",
    *,
    method: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    **components: Any,
) -> SuperResolutionPipeline:
    """Loads a super-resolution pipeline of this package.

    Args:
        model: one of `embedded_models()`, such as "seesr-small" (shipped with the package, nothing is downloaded), a
            folder written by `save_pretrained` or `diffusers-sr convert`, or a Hub id.
        method: which method it has to be of, one of `METHODS`; by default any.
        device: torch device the pipeline is moved to.
        dtype: floating-point type of the weights.
        components: models that take the place of the stored ones, or that the folder leaves open.

    Raises:
        ValueError: if the folder or repository holds a pipeline that is not of this package, or of another method; or
            if there is no such method.
        OSError: if it cannot be found.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"method={method!r}, expected one of {', '.join(map(repr, METHODS))}.")
    is_embedded = model in embedded_models()
    path = str(MODELS / model) if is_embedded else model
    name = DiffusionPipeline.load_config(path)["_class_name"]
    if name not in PIPELINES:
        raise ValueError(f"{model!r} holds a {name}; this package loads {', '.join(PIPELINES)}.")
    if method is not None and PIPELINES[name] is not METHODS[method]:
        raise ValueError(
            f"{model!r} holds a {name}, but method={method!r} is {METHODS[method].__name__}: give a model of this "
            "method, or leave the method out."
        )
    if is_embedded:
        base = StableDiffusionPipeline.from_pretrained(MODELS / BASE, dtype=dtype, safety_checker=None)
        components = {name: base.components[name] for name in BASE_COMPONENTS} | components
    return PIPELINES[name].from_pretrained(path, dtype=dtype, **components).to(device)
