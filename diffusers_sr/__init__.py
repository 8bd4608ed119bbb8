"""Real-world image super-resolution with Stable Diffusion: pipelines and attention adapters for diffusers."""

from .hub import load_pipeline
from .pipeline import SuperResolutionPipeline
from .seesr.adapter import SeeSRAdapter
from .seesr.pipeline import SeeSRPipeline
from .seesr.tagger import Tagger

__all__ = ["SeeSRAdapter", "SeeSRPipeline", "SuperResolutionPipeline", "Tagger", "load_pipeline"]
