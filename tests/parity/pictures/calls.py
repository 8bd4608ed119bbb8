"""The calls that repeat recordings: arguments, noise, and what the official code computed on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from diffusers_sr.pipeline import SuperResolutionPipeline
from tests.parity.pictures.recordings import Recording

Tensors = dict[str, torch.Tensor]
UNIT = 8
"""Pixels per latent."""


@dataclass(frozen=True)
class Repeated:
    """A call that repeats a recording.

    Args:
        arguments: those of the pipeline's call, except for the image.
        draws: what is drawn during it, in this order: by the posterior of the VAE, and by the scheduler.
        embeddings, moments: what it has to compute.
        steps: the latents after each denoising step that is recorded, by the number of the step; steps of a generated
            reference are counted too.
    """

    arguments: dict[str, Any]
    draws: list[torch.Tensor]
    embeddings: Tensors
    moments: torch.Tensor
    steps: dict[int, torch.Tensor]


def repeat(recording: Recording, pipeline: SuperResolutionPipeline) -> Repeated:
    """Make the call that repeats a recording."""
    return {"seesr": seesr, "xpsr": xpsr, "coser": coser}[recording.method](recording, pipeline)


def seesr(recording: Recording, pipeline: SuperResolutionPipeline) -> Repeated:
    tensors, options = recording.tensors, recording.info["args"]
    starts_from_image = options["start_point"] == "lr"
    return Repeated(
        {
            **diffusers_arguments(options),
            "prompt": options["prompt"],
            "start_point": options["start_point"],
            "latents": tensors["noise.initial.0"],
        },
        # The official code encodes both halves of the guidance, and uses the first.
        [tensors["noise.vae.0"][:1]] * starts_from_image + list(recording.numbered("noise.step").values()),
        {
            "negative_prompt": tensors["prompt_neg_pos"][:1],
            "prompt": tensors["prompt_neg_pos"][1:],
            "representation": tensors["ram_embeds"],
        },
        tensors["vae_moments"],
        by_number(recording, "latents"),
    )


def xpsr(recording: Recording, pipeline: SuperResolutionPipeline) -> Repeated:
    tensors, info = recording.tensors, recording.info
    options, steps = info["args"], list(recording.numbered("noise.step").values())
    arguments = {
        **diffusers_arguments(options),
        "high_level_prompt": info["high"].strip(),
        "low_level_prompt": info["low"].strip(),
        "added_noise_level": options["added_noise_level"],
    }
    if options["init_latent_with_noise"]:
        arguments |= {"start_point": "noise", "latents": tensors["noise.pipe.0"]}
        draws = steps
    else:
        arguments["latents"] = one_noise(tensors, options["added_noise_level"], pipeline.scheduler.alphas_cumprod)
        draws = [tensors["noise.vae.0"][:1], *steps]
    return Repeated(
        arguments,
        draws,
        {
            "negative_prompt": tensors["prompt_neg_pos"][:1],
            "prompt": tensors["prompt_neg_pos"][1:],
            "negative_low_level_prompt": tensors["lowlevel_neg_pos"][:1],
            "low_level_prompt": tensors["lowlevel_neg_pos"][1:],
        },
        tensors["vae_moments"],
        by_number(recording, "latents"),
    )


def coser(recording: Recording, pipeline: SuperResolutionPipeline) -> Repeated:
    tensors, info = recording.tensors, recording.info
    options = dict(zip(info["extra"][::2], info["extra"][1::2], strict=True))
    references, steps = (list(recording.numbered(f"noise.{name}").values()) for name in ("ref", "step"))
    count = info["steps"]
    arguments: dict[str, Any] = {
        "prompt": options.get("--user_prompt"),
        "upscale": float(options.get("--upscale", 4)),
        "guidance_scale": float(options.get("--cfg", 3)),
        "reference_guidance_scale": float(options.get("--cfg_ref", 3)),
        "cfw_weight": float(options.get("--dec_w", 0.5)),
        "num_inference_steps": count,
        "color_fix": info["colorfix"] if info["colorfix"] in ("adain", "wavelet") else None,
        "latents": tensors["noise.initial.0"],
    }
    # The scripts also draw noise at the last step, and multiply it by 0.
    draws = references[: count - 1] + steps[: count - 1]
    number_of_references = count
    if info["script"] == "inference_tile":
        size = int(options.get("--input_size", 512))
        arguments |= {"reference_images": torch.full((1, 3, size, size), 0.5), "process_size": size}
        arguments |= {"tile_size": size, "tile_overlap": UNIT * int(options.get("--tile_overlap", 32))}
        draws, number_of_references = steps[: count - 1], 0
    return Repeated(
        arguments,
        draws,
        {"negative_prompt": tensors["text.1"], "prompt": torch.cat([tensors["text.0"], tensors["cog"]], dim=1)},
        tensors["moments"],
        by_number(recording, "latents.ref") | by_number(recording, "latents.sr", number_of_references),
    )


def diffusers_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Translate the options that the scripts of SeeSR and XPSR share."""
    return {
        "negative_prompt": options["negative_prompt"],
        "upscale": options["upscale"],
        "num_inference_steps": options["num_inference_steps"],
        "guidance_scale": options["guidance_scale"],
        "controlnet_conditioning_scale": options["conditioning_scale"],
        "process_size": options["process_size"],
        "tile_size": options["latent_tiled_size"] * UNIT,
        "tile_overlap": options["latent_tiled_overlap"] * UNIT,
    }


def by_number(recording: Recording, name: str, first: int = 0) -> dict[int, torch.Tensor]:
    return {first + int(key.rpartition(".")[2]): tensor for key, tensor in recording.numbered(name).items()}


def one_noise(tensors: Tensors, level: int, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Combine the two draws of XPSR's start to the one that the pipeline takes, which is the same noise."""
    kept, again = alphas_cumprod[[int(tensors["timestep.0"]), level]].double()
    first, second = tensors["noise.pipe.0"].double(), tensors["noise.pipe.1"].double()
    noise = (again * (1 - kept)).sqrt() * first + (1 - again).sqrt() * second
    return (noise / (1 - kept * again).sqrt()).float()
