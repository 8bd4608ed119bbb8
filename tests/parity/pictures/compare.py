"""Compare every stage of a call with what the official script recorded, and its picture with what the script saved.

A call is run whole and once, so that a stage works on what the stage before it gave. Only the noise is put in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image

from diffusers_sr.image.color import COLOR_FIXES
from diffusers_sr.pipeline import SuperResolutionPipeline
from tests.parity.pictures.calls import repeat
from tests.parity.pictures.recordings import Recording
from tests.parity.xpsr import replayed

EMBEDDINGS, MOMENTS = 1e-5, 1e-4
LATENTS = {"seesr": 1e-5, "xpsr": 1e-5, "coser": 1e-4}  # of scores that are nearly equal, CoSeR may take the other
LARGEST, MEAN = 4, 0.6  # levels


@dataclass(frozen=True)
class Difference:
    """How far a stage is from the official one, and how far it may be."""

    stage: str
    value: float
    limit: float

    @property
    def is_small(self) -> bool:
        return self.value <= self.limit  # NaN is not


@torch.no_grad()
def differences(recording: Recording, pipeline: SuperResolutionPipeline) -> list[Difference]:
    """Repeat a recording, and measure how far each stage is from it."""
    expected = repeat(recording, pipeline)
    with replayed(expected.draws), watched(pipeline) as seen:
        result = pipeline(recording.image, official_preprocessing=True, **expected.arguments).images[0]
    call, photo, decoded = seen["decode"]
    found = [
        Difference(name, relative(seen["embeddings"][name], tensor), EMBEDDINGS)
        for name, tensor in expected.embeddings.items()
    ]
    found.append(Difference("moments", relative(seen["moments"][0], expected.moments), MOMENTS))
    found += [
        Difference(f"latents {step}", relative(seen["latents"][step], tensor), LATENTS[recording.method])
        for step, tensor in expected.steps.items()
    ]
    for name, picture in recording.results.items():
        fix = name.partition("_")[2]
        if fix:
            other = replace(call, color_fix=fix if fix in COLOR_FIXES else None)
            result = pipeline.finish(other, photo, decoded.clone())[0]
        found += levels(name, result, picture)
    return found


@contextmanager
def watched(pipeline: SuperResolutionPipeline) -> Iterator[dict[str, Any]]:
    """Keep what the stages of a call give, without changing it."""
    seen: dict[str, Any] = {"embeddings": {}, "moments": [], "latents": []}
    describe, prepare_guidance, draw_latents, decode = (
        getattr(pipeline, name) for name in ("describe", "prepare_guidance", "draw_latents", "decode")
    )
    step = DDPMScheduler.step

    def describe_and_keep(*args: Any) -> Any:
        texts, tensors = describe(*args)
        seen["embeddings"] |= tensors
        return texts, tensors

    def guide_and_keep(*args: Any) -> Any:
        guidance = prepare_guidance(*args)
        seen["embeddings"] |= {"prompt": guidance.prompt_embeds, "negative_prompt": guidance.negative_prompt_embeds}
        return guidance

    def draw_and_keep(posterior: Any, *args: Any) -> torch.Tensor:
        seen["moments"].append(posterior.parameters)
        return draw_latents(posterior, *args)

    def decode_and_keep(call: Any, photo: Any, latents: torch.Tensor) -> torch.Tensor:
        decoded = decode(call, photo, latents)
        seen["decode"] = call, photo, decoded.clone()
        return decoded

    def step_and_keep(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        seen["latents"].append(result[0])
        return result

    with (
        patch.object(DDPMScheduler, "step", step_and_keep),
        patch.dict(
            pipeline.__dict__,
            describe=describe_and_keep,
            prepare_guidance=guide_and_keep,
            draw_latents=draw_and_keep,
            decode=decode_and_keep,
        ),
    ):
        yield seen


def relative(result: torch.Tensor, expected: torch.Tensor) -> float:
    """The L2 norm of the difference over that of what was expected; infinite if the shapes differ."""
    if result.shape != expected.shape:
        return float("inf")
    return ((result.double() - expected.double()).norm() / expected.double().norm()).item()


def levels(name: str, result: Image.Image, expected: Image.Image) -> list[Difference]:
    if result.size != expected.size:
        return [Difference(f"{name}: size {result.size}, expected {expected.size}", float("inf"), 0)]
    difference = np.abs(np.asarray(result, dtype=float) - np.asarray(expected, dtype=float))
    return [
        Difference(f"{name}: largest", difference.max().item(), LARGEST),
        Difference(f"{name}: mean", difference.mean().item(), MEAN),
    ]
