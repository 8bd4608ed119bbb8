"""Small XPSR and PASD pipelines, and what is seen of their calls."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from diffusers_sr.xpsr.adapter import XPSRAdapter
from diffusers_sr.xpsr.pipeline import XPSRPipeline
from diffusers_sr.xpsr.prompts import ImagePrompts
from tests.components import components, inputs, randomise

QUALITY = "clean, high-resolution, 8k, high quality, clear text."
NEGATIVE = "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed."
NEGATIVE_LOW_LEVEL = "high resolution, best quality, clear"
# The prompts of `inputs` that are embeddings, left out.
AS_TEXTS = {"low_level_prompt_embeds": None, "negative_low_level_prompt_embeds": None}


def build(**overrides: Any) -> XPSRPipeline:
    pipeline = XPSRPipeline(**{**components("xpsr"), **overrides})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_pasd() -> XPSRPipeline:
    parts = components("xpsr")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapter = randomise(XPSRAdapter.from_hosts(parts["unet"], parts["controlnet"], fusion=False))
    return build(**{**parts, "adapter": adapter})


def run(pipeline: XPSRPipeline, **overrides: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.as_tensor(pipeline(**{**inputs("xpsr"), "generator": generator, **overrides}).images)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


class Describer:
    """A captioner that says of every image how large it is, and remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[list[Image.Image]] = []

    def __call__(self, images: list[Image.Image]) -> list[ImagePrompts]:
        self.seen.append(images)
        return [ImagePrompts(f"{image.width} wide", f"{image.height} high") for image in images]


def texts_read(pipeline: XPSRPipeline) -> list[list[str]]:
    """A list to which every call of the text encoder adds the texts it is given."""
    texts: list[list[str]] = []

    def read(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        texts.append(pipeline.tokenizer.batch_decode(tokens, skip_special_tokens=True))

    pipeline.text_encoder.register_forward_pre_hook(read, with_kwargs=True)
    return texts


def as_read(pipeline: XPSRPipeline, *texts: str) -> list[str]:
    return pipeline.tokenizer.batch_decode(pipeline.tokenizer(list(texts)).input_ids, skip_special_tokens=True)
