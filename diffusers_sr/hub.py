"""From a name to a pipeline: the models shipped in this package, a local folder, or a repository on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from .pipeline import SuperResolutionPipeline
from .seesr.pipeline import SeeSRPipeline

PIPELINES: dict[str, type[SuperResolutionPipeline]] = {"SeeSRPipeline": SeeSRPipeline}

MODELS = Path(__file__).parent / "models"
"""Where the package keeps its own small models; `base` holds what they share, a Stable Diffusion pipeline."""

EMBEDDED = ("seesr-small",)
BASE = "base-small"
BASE_COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet")


def load_pipeline(
    model: str = "seesr-small", *, device: str = "cpu", dtype: torch.dtype = torch.float32, **components: Any
) -> SuperResolutionPipeline:
    """Loads a super-resolution pipeline of this package, whatever its method.

    Args:
        model: "seesr-small" (shipped with the package, nothing is downloaded), a folder written by `save_pretrained`
            or `diffusers-sr convert`, or a Hub id.
        device: torch device the pipeline is moved to.
        dtype: floating-point type of the weights.
        components: models that take the place of the stored ones, or that the folder leaves open.

    Raises:
        ValueError: if the folder or repository holds a pipeline that is not of this package.
        OSError: if it cannot be found.
    """
    if model in EMBEDDED:
        base = StableDiffusionPipeline.from_pretrained(MODELS / BASE, dtype=dtype, safety_checker=None)
        components = {name: base.components[name] for name in BASE_COMPONENTS} | components
    path = str(MODELS / model) if model in EMBEDDED else model
    name = DiffusionPipeline.load_config(path)["_class_name"]
    if name not in PIPELINES:
        raise ValueError(f"{model!r} holds a {name}; this package loads {', '.join(sorted(PIPELINES))}.")
    return PIPELINES[name].from_pretrained(path, dtype=dtype, **components).to(device)
