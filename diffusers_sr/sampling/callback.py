"""Run a call's callback, which has diffusers' form, after each step of the sampling loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from .guidance import Guidance
from .loop import AfterStep

if TYPE_CHECKING:
    from .call import Call


def callback_after_step(pipeline: Any, call: Call, guidance: Guidance) -> AfterStep | None:
    """Turn the call's callback into the function that `sample` calls after a step; None if there is no callback.

    The callback may change the latents and the prompts' embeddings by returning them, and the guidance as diffusers'
    own callbacks do, by setting `_guidance_scale` on the pipeline.
    """
    callback, names = call.callback_on_step_end, call.callback_on_step_end_tensor_inputs
    if callback is None:
        return None
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        names = callback.tensor_inputs

    def after_step(step: int, timestep: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        tensors: dict[str, Any] = {
            "latents": latents,
            "noise_pred": noise,
            "prompt_embeds": guidance.prompt_embeds,
            "negative_prompt_embeds": guidance.negative_prompt_embeds,
        }
        tensors |= callback(pipeline, step, timestep, {name: tensors[name] for name in names})
        guidance.prompt_embeds = tensors["prompt_embeds"]
        guidance.negative_prompt_embeds = tensors["negative_prompt_embeds"]
        guidance.scale = pipeline.guidance_scale
        changed: torch.Tensor = tensors["latents"]
        return changed

    return after_step
