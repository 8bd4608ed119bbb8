"""Real-world image super-resolution with Stable Diffusion: pipelines and attention adapters for diffusers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cassr.activation import SCEditAdapter
    from .cassr.adapter import CasSRAdapter
    from .cassr.pipeline import CasSRPipeline
    from .coser.adapter import CoSeRAdapter
    from .coser.cfw import ControllableFeatureWrapping
    from .coser.cognition import CognitiveEncoder
    from .coser.controlnet import LatentControlNetModel
    from .coser.pipeline import CoSeRPipeline
    from .hub import load_pipeline
    from .image.sizes import upscale_for
    from .one_step.lora import LoraSets
    from .one_step.pipeline import OneStepPipeline
    from .pipeline import SuperResolutionPipeline
    from .seesr.adapter import SeeSRAdapter
    from .seesr.pipeline import SeeSRPipeline
    from .seesr.tagger import Tagger
    from .xpsr.adapter import XPSRAdapter
    from .xpsr.captioner import Captioner
    from .xpsr.constraint import DegradationFreeConstraint
    from .xpsr.pasd import PASDPipeline
    from .xpsr.pipeline import XPSRPipeline
    from .xpsr.prompts import ImagePrompts

__all__ = [
    "Captioner",
    "CasSRAdapter",
    "CasSRPipeline",
    "CoSeRAdapter",
    "CoSeRPipeline",
    "CognitiveEncoder",
    "ControllableFeatureWrapping",
    "DegradationFreeConstraint",
    "ImagePrompts",
    "LatentControlNetModel",
    "LoraSets",
    "OneStepPipeline",
    "PASDPipeline",
    "SCEditAdapter",
    "SeeSRAdapter",
    "SeeSRPipeline",
    "SuperResolutionPipeline",
    "Tagger",
    "XPSRAdapter",
    "XPSRPipeline",
    "load_pipeline",
    "upscale_for",
]

_MODULES = {
    "Captioner": ".xpsr.captioner",
    "CasSRAdapter": ".cassr.adapter",
    "CasSRPipeline": ".cassr.pipeline",
    "CoSeRAdapter": ".coser.adapter",
    "CoSeRPipeline": ".coser.pipeline",
    "CognitiveEncoder": ".coser.cognition",
    "ControllableFeatureWrapping": ".coser.cfw",
    "DegradationFreeConstraint": ".xpsr.constraint",
    "ImagePrompts": ".xpsr.prompts",
    "LatentControlNetModel": ".coser.controlnet",
    "LoraSets": ".one_step.lora",
    "OneStepPipeline": ".one_step.pipeline",
    "PASDPipeline": ".xpsr.pasd",
    "SCEditAdapter": ".cassr.activation",
    "SeeSRAdapter": ".seesr.adapter",
    "SeeSRPipeline": ".seesr.pipeline",
    "SuperResolutionPipeline": ".pipeline",
    "Tagger": ".seesr.tagger",
    "XPSRAdapter": ".xpsr.adapter",
    "XPSRPipeline": ".xpsr.pipeline",
    "load_pipeline": ".hub",
    "upscale_for": ".image.sizes",
}


def __getattr__(name: str) -> Any:
    # Importing torch and diffusers takes seconds; `diffusers-sr --help` and its argument errors need neither.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
