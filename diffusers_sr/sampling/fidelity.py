"""The dial from detailed to faithful: values of a call's arguments between those of the model and two extremes.

No paper has this dial. Its ends are those that the official codes and their users reach by hand: more guidance, and a
start from noise, invent more; no guidance, and less noise on the image, keep more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT = 0.5
"""The fidelity at which all arguments have the model's own values."""

FROM_NOISE = 0.25
"""Below this fidelity sampling starts from noise alone."""


def between(fidelity: float, detailed: float, default: float, faithful: float) -> float:
    """Interpolate linearly: `detailed` at a fidelity of 0, exactly `default` at 0.5, `faithful` at 1."""
    end = faithful if fidelity > DEFAULT else detailed
    return default + abs(2 * fidelity - 1) * (end - default)


def guidance_scale(fidelity: float, default: float) -> float:
    """Give the guidance of a fidelity: from half as much again to none; a model without guidance keeps having none."""
    if default <= 1:
        return default
    return between(fidelity, 1 + 1.5 * (default - 1), default, 1.0)


def sampling_values(
    fidelity: float, values: Mapping[str, Any], noise_level: str = "strength", least: float = 0.6
) -> dict[str, Any]:
    """Give the values of guidance, ControlNet and start, as `sampling_meaning` says.

    A model that samples in one step is different: the ControlNet's residuals are then what restores the image, and
    with less of them the result stays closer to it.

    Args:
        values: those of the arguments that the caller gave, and the model's of all others.
        noise_level: the argument that says how much noise the image gets.
        least: what is left of it at a fidelity of 1, as a share of the model's.
    """
    control = values["controlnet_conditioning_scale"]
    if values["num_inference_steps"] == 1:
        return {"controlnet_conditioning_scale": between(fidelity, 1.4 * control, control, 0.8 * control)}
    dialled = {
        "guidance_scale": guidance_scale(fidelity, values["guidance_scale"]),
        "controlnet_conditioning_scale": between(fidelity, 0.8 * control, control, control),
    }
    if fidelity < FROM_NOISE and values["strength"] == 1:
        return {**dialled, "start_point": "noise"}
    if values["start_point"] == "noise":
        return dialled
    level = values[noise_level]
    return {**dialled, noise_level: between(fidelity, level, level, least * level)}


def sampling_meaning(least: str) -> str:
    """Say what `sampling_values` does.

    Args:
        least: the words for how much noise the image gets at a fidelity of 1.
    """
    return (
        "`guidance_scale` goes from half as much again (0) to none (1); `controlnet_conditioning_scale` from 0.8 of "
        "the model's (0) to all of it; below 0.25 sampling starts from noise alone, and above 0.5 there is less and "
        f"less noise on the image, down to {least} (1). Where the model samples in one step, "
        "`controlnet_conditioning_scale` alone changes, from 1.4 (0) to 0.8 (1) of the model's."
    )
