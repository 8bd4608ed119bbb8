"""What the arguments of `SuperResolutionPipeline.__call__` may be."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch

from ..image.color import COLOR_FIXES
from ..texts import is_texts

START_POINTS = ("lr", "noise")
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def check_inputs(
    *,
    num_inference_steps: int,
    guidance_scale: float,
    controlnet_conditioning_scale: float,
    start_point: str,
    tile_size: int,
    tile_overlap: int,
    process_size: int,
    vae_scale_factor: int,
    callback_tensor_inputs: Sequence[str],
    prompt: str | list[str] | None = None,
    prompt_embeds: torch.Tensor | None = None,
    negative_prompt: str | list[str] | None = None,
    negative_prompt_embeds: torch.Tensor | None = None,
    upscale: float = 4.0,
    tile_batch_size: int = 1,
    color_fix: str | None = "adain",
    num_images_per_prompt: int = 1,
    output_type: str = "pil",
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
) -> None:
    """Raise ValueError for the first argument with a value that is not allowed. Numbers may be those of numpy.

    Args:
        vae_scale_factor: pixels to one latent, the unit of tiles.
        callback_tensor_inputs: the tensors a callback can get.

    The others are those of `SuperResolutionPipeline.__call__`.
    """
    check_texts("prompt", prompt, prompt_embeds)
    check_texts("negative_prompt", negative_prompt, negative_prompt_embeds)
    if not _is_number(upscale) or upscale <= 0:
        raise ValueError(f"upscale={upscale!r}, expected a factor above 0.")
    for name, scale in (
        ("guidance_scale", guidance_scale),
        ("controlnet_conditioning_scale", controlnet_conditioning_scale),
    ):
        check_number(name, scale)
    for name, number in (
        ("num_inference_steps", num_inference_steps),
        ("tile_batch_size", tile_batch_size),
        ("num_images_per_prompt", num_images_per_prompt),
    ):
        check_count(name, number)
    if not _is_number(process_size) or process_size < 0:
        raise ValueError(f"process_size={process_size!r}, expected a number of pixels from 0 on.")
    for name, pixels in (("tile_size", tile_size), ("tile_overlap", tile_overlap)):
        if not isinstance(pixels, Integral) or pixels < 0 or pixels % vae_scale_factor:
            raise ValueError(
                f"{name}={pixels!r}, expected a multiple of {vae_scale_factor}, the pixels to one latent."
            )
    if tile_overlap >= tile_size:
        raise ValueError(f"tile_overlap={tile_overlap}, expected less than tile_size={tile_size}.")
    for name, value, allowed in (
        ("start_point", start_point, START_POINTS),
        ("color_fix", color_fix, (*COLOR_FIXES, None)),
        ("output_type", output_type, OUTPUT_TYPES),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r}, expected one of {', '.join(map(repr, allowed))}.")
    if unknown := [name for name in callback_on_step_end_tensor_inputs if name not in callback_tensor_inputs]:
        raise ValueError(
            f"callback_on_step_end_tensor_inputs has {unknown}, but a callback can get {list(callback_tensor_inputs)}."
        )


def check_texts(name: str, text: object, embeds: object = None) -> None:
    """Raise ValueError if the argument `name` is no text and no list of texts, or is given beside its embeddings."""
    if text is not None and embeds is not None:
        raise ValueError(f"Both `{name}` and `{name}_embeds` are given: give one of them.")
    if text is not None and not is_texts(text):
        raise ValueError(f"{name}={text!r}, expected a text, or a list with one text for each image.")


def check_number(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a finite number."""
    if not _is_number(value):
        raise ValueError(f"{name}={value!r}, expected a number.")


def check_count(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a whole number from 1 on."""
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name}={value!r}, expected a whole number from 1 on.")


def split_inputs(inputs: Mapping[str, Any], *steps: Callable[..., Any]) -> list[dict[str, Any]]:
    """Give each step those of the inputs that are among its parameters.

    Raises:
        TypeError: if one is no step's.
    """
    names = [inspect.signature(step).parameters.keys() for step in steps]
    if unknown := sorted(inputs.keys() - set().union(*names)):
        raise TypeError(f"There are no arguments {', '.join(unknown)}: see the signatures of the call and its steps.")
    return [{name: inputs[name] for name in inputs if name in own} for own in names]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)
