"""XPSR on weights in the official layout. Which of two sets INPUTS belongs to is seen from the names in it.

Networks: `in.{sample, timestep, encoder_hidden_states, lowlevel_encoder_hidden_states, controlnet_cond,
conditioning_scale}`, with `unet/` and `controlnet/` in WEIGHTS_DIR, give the ControlNet's residuals, `out.cn.{down.0…,
mid}`; what the heads of the constraint read off it, `out.cn.{dfc_rgb.0…, dfc_latent.0…, dfc_latent.mid}`; the UNet's
`out.unet`; without the low-level prompt `out.nolow.{cn.down.last, cn.mid, unet}`; and on the way `mid.cn.*` of every
semantic fusion and `mid.unet.*` of every pixel attention and block of the decoder.

Sampling: `in.image_01`, `emb.{prompt, lowlevel}_neg_pos` and `noise.{vae.0, pipe.0, pipe.1, step.0…}`, with `unet/`,
`controlnet/`, `vae/` and `scheduler/` in WEIGHTS_DIR and a JSON file of the same name beside INPUTS or there (or the
one of --cases), give `mid.{vae_mean, vae_std, init_latents, timesteps, unet_out_call.0…, latents_after_step.0…}`,
`out.latents` and `out.vae_decoded_m11`. Random weights make the loops chaotic: a change of 1e-7 of the latents changes
what the UNet gives by up to a tenth, and the next step by all there is. They are reproduced because all is computed as
it was there, to the last bit (`exactly`, `exact_prediction`), on a processor with the same instructions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.autoencoders import vae as diffusers_vae
from diffusers.schedulers import scheduling_ddpm
from safetensors.torch import load_file
from torch import nn
from tqdm.auto import tqdm

from diffusers_sr.attention.control_features import control_features
from diffusers_sr.image.tiling import Window, tile_groups, tile_windows
from diffusers_sr.sampling.guidance import Guidance
from diffusers_sr.sampling.loop import PredictNoise, sample
from diffusers_sr.xpsr.adapter import FUSION, LOW_LEVEL, XPSRAdapter
from diffusers_sr.xpsr.constraint import embed_with_features
from diffusers_sr.xpsr.convert import OfficialNetworks, load_networks
from diffusers_sr.xpsr.denoiser import XPSRControl, XPSRDenoiser

Tensors = dict[str, torch.Tensor]


def forward(weights: Path, inputs: Path, dtype: torch.dtype, cases: Path | None) -> Tensors:
    with exactly():
        given = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in load_file(inputs).items()
            if name.startswith(("in.", "emb.", "noise."))
        }
        given = {name: tensor.clone() for name, tensor in given.items()}
        networks = OfficialNetworks(
            *(model.to(dtype) for model in load_networks("xpsr", weights / "unet", weights / "controlnet"))
        )
        for network in networks:
            for parameter in network.parameters():
                parameter.data = parameter.data.clone()
        networks.adapter.attach(networks.unet).attach(networks.controlnet)
        if "in.image_01" in given:
            beside = [inputs.with_suffix(".json"), weights / f"{inputs.stem}.json"]
            file = cases or next((path for path in beside if path.is_file()), beside[0])
            options = json.loads(file.read_text(encoding="utf-8"))
            outputs = sampling_outputs(weights, networks, given, options)
        else:
            outputs = network_outputs(networks, given)
        return {name: tensor.clone() for name, tensor in outputs.items()}  # no two names for one memory in a file


@contextmanager
def exactly() -> Iterator[None]:
    """Sum in the order the vectors were computed in: with more than one thread, and all tensors aligned alike.

    Of the latter those are copies that lie in a file, in `forward`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(threads, 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def network_outputs(networks: OfficialNetworks, given: Tensors) -> Tensors:
    unet, controlnet, adapter, constraint = networks
    latents, timestep, text = (given[f"in.{name}"] for name in ("sample", "timestep", "encoder_hidden_states"))
    condition, scale = given["in.controlnet_cond"], float(given["in.conditioning_scale"])
    low_level = adapter("prepare_low_level", given["in.lowlevel_encoder_hidden_states"])
    embedding, pixel_features = embed_with_features(controlnet.controlnet_cond_embedding, condition)

    def residuals(low_level: Any, scale: float) -> list[torch.Tensor]:
        with adapter.conditioning(low_level=low_level):
            return control_features(controlnet, latents, timestep, text, condition, scale)

    def noise(controls: list[torch.Tensor]) -> torch.Tensor:
        *down, middle = controls
        kinds = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        with adapter.conditioning(controls=controls):
            return unet(latents, timestep, text, **kinds, return_dict=False)[0]

    outputs: Tensors = {"mid.cn.cond_embedding": embedding}
    with seen(outputs, unet, adapter):
        controls = residuals([low_level], scale)
        outputs["out.unet"] = noise(controls)
    outputs |= _numbered("out.cn.down", controls[:-1]) | {"out.cn.mid": controls[-1]}
    images, (*down, middle) = constraint(pixel_features, residuals([low_level], 1.0))
    outputs |= _numbered("out.cn.dfc_rgb", images) | _numbered("out.cn.dfc_latent", down)
    outputs["out.cn.dfc_latent.mid"] = middle
    controls = residuals(None, scale)
    outputs |= {"out.nolow.cn.down.last": controls[-2], "out.nolow.cn.mid": controls[-1]}
    outputs["out.nolow.unet"] = noise(controls)
    return outputs


@contextmanager
def seen(outputs: Tensors, unet: UNet2DConditionModel, adapter: XPSRAdapter) -> Iterator[None]:
    """Put what the parts of the adapter give in a call of both hosts into `outputs`, by the official names."""

    def keep(name: str, what: str = "output") -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            result = args if what == "input" else output
            outputs[name] = result if isinstance(result, torch.Tensor) else result[0]

        return hook

    handles = []
    for site in adapter.config.controlnet_sites:
        block, _, number = site.partition(".attentions.")
        parts: Any = adapter.controlnet[site.replace(".", "__")]
        handles += [
            parts[FUSION].register_forward_hook(keep(f"mid.cn.{block}.attentions.{number}", "input")),
            parts[LOW_LEVEL].register_forward_hook(keep(f"mid.cn.{block}.attentions_lowlevel.{number}")),
            parts[FUSION].register_forward_hook(keep(f"mid.cn.{block}.attentions_connect.{number}")),
        ]
    for site in adapter.config.unet_sites:
        block, _, number = site.rsplit(".", 2)
        part = adapter.unet[site.replace(".", "__")]
        handles.append(part.register_forward_hook(keep(f"mid.unet.{block}.pixel_attentions.{number}")))
    for number, up_block in enumerate(unet.up_blocks):
        handles.append(up_block.register_forward_hook(keep(f"mid.unet.up_blocks.{number}")))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def sampling_outputs(weights: Path, networks: OfficialNetworks, given: Tensors, options: dict[str, Any]) -> Tensors:
    image = given["in.image_01"]
    vae, scheduler = load_vae(weights, image.dtype), load_scheduler(weights, options)
    outputs = start_outputs(vae, scheduler, given, options)
    latents = outputs["mid.init_latents"]
    height, width = latents.shape[-2:]
    windows = tile_windows(height, width, options["latent_tiled_size"], options["latent_tiled_overlap"])

    unet, controlnet, adapter, _ = networks
    denoiser = XPSRDenoiser(unet, controlnet, adapter, options["conditioning_scale"])
    low_level = [adapter("prepare_low_level", prompt) for prompt in given["emb.lowlevel_neg_pos"].split(1)]
    controls = exact_controls(denoiser, XPSRControl(image, low_level), windows, image.shape[-1] // width)
    negative, positive = given["emb.prompt_neg_pos"].split(1)
    guidance = Guidance(positive, negative, options["guidance_scale"])

    def keep(step: int, timestep: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        outputs[f"mid.latents_after_step.{step}"] = latents
        return latents

    calls: list[torch.Tensor] = []
    handle = unet.register_forward_hook(lambda module, args, output: calls.append(output[0]))
    with replayed([given[f"noise.step.{step}"] for step in range(options["num_inference_steps"])]):
        latents = sample(
            exact_prediction(denoiser, controls, guidance, windows),
            latents,
            scheduler,
            after_step=keep,
            progress_bar=partial(tqdm, disable=True),
        )
    handle.remove()
    outputs |= _numbered("mid.unet_out_call", calls)
    outputs["out.latents"] = latents
    outputs["out.vae_decoded_m11"] = vae.decode(latents / vae.config.scaling_factor).sample
    return outputs


def load_vae(weights: Path, dtype: torch.dtype) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(weights / "vae").to(dtype)


def load_scheduler(weights: Path, options: dict[str, Any]) -> DDPMScheduler:
    scheduler = DDPMScheduler.from_pretrained(weights / "scheduler")
    scheduler.set_timesteps(options["num_inference_steps"])
    return scheduler


def start_outputs(vae: AutoencoderKL, scheduler: DDPMScheduler, given: Tensors, options: dict[str, Any]) -> Tensors:
    """Start as the official code does, which adds noise twice; the pipeline's one addition differs in the last bit."""
    outputs: Tensors = {"mid.timesteps": scheduler.timesteps}
    if options["init_latent_with_noise"]:
        return {**outputs, "mid.init_latents": given["noise.pipe.0"]}
    posterior = vae.encode(2 * given["in.image_01"] - 1).latent_dist
    latents = (posterior.mean + posterior.std * given["noise.vae.0"]) * vae.config.scaling_factor
    latents = scheduler.add_noise(latents, given["noise.pipe.0"], scheduler.timesteps[:1])
    latents = scheduler.add_noise(latents, given["noise.pipe.1"], torch.tensor([options["added_noise_level"]]))
    return {
        **outputs,
        "mid.vae_mean": posterior.mean,
        "mid.vae_std": posterior.std,
        "mid.init_latents": latents,
    }


def exact_controls(
    denoiser: XPSRDenoiser, control: XPSRControl, windows: Sequence[Window], unit: int
) -> list[XPSRControl]:
    """Embed the image in a batch of two, for both halves of the guidance, and keep the first."""
    twice = control._replace(image=control.image.repeat(2, 1, 1, 1))
    tiles = denoiser.control_tiles(twice, 2, tile_groups(windows, 1), unit)
    return [tile._replace(image=tile.image[:1]) for tile in tiles]


def exact_prediction(
    denoiser: XPSRDenoiser, controls: Sequence[XPSRControl], guidance: Guidance, windows: Sequence[Window]
) -> PredictNoise:
    """Blend column by column, with weights in float64 and sums in float32, and before the guidance.

    This is the official code's order and precision. `GuidedPrediction` differs from it in the last bits only.
    """
    columns_first = sorted(range(len(windows)), key=lambda index: (windows[index].left, windows[index].top))
    weights = exact_weights(windows[0].height, windows[0].width)

    def predict_noise(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        if len(windows) == 1:
            return guidance.combine(denoiser.predict(latents, timestep, guidance.texts, controls[0]))
        weighted_sum = latents.new_zeros(len(guidance.texts), *latents.shape[1:])
        weight_sum = torch.zeros_like(latents)
        for index in columns_first:
            window = windows[index]
            tile = window.crop(latents).clone()
            predictions = torch.cat(list(denoiser.predict(tile, timestep, guidance.texts, controls[index])))
            window.crop(weighted_sum).add_(predictions * weights)
            window.crop(weight_sum).add_(weights)
        return guidance.combine((weighted_sum / weight_sum).split(1))

    return predict_noise


def exact_weights(height: int, width: int) -> torch.Tensor:
    distances = ((np.arange(height) - height / 2) / height, (np.arange(width) - (width - 1) / 2) / width)
    rows, columns = (np.exp(-(axis**2) / (2 * 0.01)) / np.sqrt(2 * np.pi * 0.01) for axis in distances)
    return torch.from_numpy(np.outer(rows, columns))


@contextmanager
def replayed(noises: list[torch.Tensor]) -> Iterator[None]:
    """Let these be drawn one after another, by the posterior of a VAE and by the scheduler in its steps."""
    remaining = iter(noises)

    def draw(*args: Any, **kwargs: Any) -> torch.Tensor:
        return next(remaining)

    with patch.object(diffusers_vae, "randn_tensor", draw), patch.object(scheduling_ddpm, "randn_tensor", draw):
        yield


def _numbered(name: str, tensors: list[torch.Tensor]) -> Tensors:
    return {f"{name}.{index}": tensor for index, tensor in enumerate(tensors)}
