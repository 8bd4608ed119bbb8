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
it was there, to the last bit (`exactly`, `ExactPipeline`), on a processor with the same instructions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.schedulers import scheduling_ddpm
from safetensors.torch import load_file
from torch import nn

import diffusers_sr.pipeline
from diffusers_sr.attention.control_features import control_features
from diffusers_sr.image.tiling import Window, tiled_map
from diffusers_sr.xpsr.adapter import FUSION, LOW_LEVEL, XPSRAdapter
from diffusers_sr.xpsr.constraint import embed_with_features
from diffusers_sr.xpsr.convert import OfficialNetworks, load_networks
from diffusers_sr.xpsr.pipeline import XPSRControl, XPSRPipeline

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
            outputs = sampling_outputs(load_pipeline(weights, networks, dtype), given, options)
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


class ReplayedPipeline(XPSRPipeline):
    """Draws the image's latents from the VAE's posterior with the noise it was told."""

    vae_noise: torch.Tensor
    posterior: DiagonalGaussianDistribution

    def draw_latents(self, posterior: DiagonalGaussianDistribution, generator: Any = None) -> torch.Tensor:
        self.posterior = posterior
        return posterior.mean + posterior.std * self.vae_noise

    def blend(self, *arguments: Any) -> torch.Tensor:
        return tiled_map(*arguments)


class ExactPipeline(ReplayedPipeline):
    """Sums, besides, in the official code's order and precision, which differs in the last bits only."""

    def control_tiles(self, control: XPSRControl, *arguments: Any) -> list[XPSRControl]:
        """Embeds the image in a batch of two, for both halves of the guidance."""
        twice = control._replace(image=control.image.repeat(2, 1, 1, 1))
        tiles = super().control_tiles(twice, len(twice.image), *arguments[1:])
        return [tile._replace(image=tile.image[:1]) for tile in tiles]

    def guide(self, noise_preds: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(list(noise_preds))

    def blend(self, predict: Any, latents: torch.Tensor, windows: Sequence[Window], _: int) -> torch.Tensor:
        """Column by column, with weights in float64 and sums in float32, and before the guidance."""
        if len(windows) == 1:
            return super().guide(predict(latents, 0).chunk(2))
        height, width = windows[0].height, windows[0].width
        distances = ((np.arange(height) - height / 2) / height, (np.arange(width) - (width - 1) / 2) / width)
        rows, columns = (np.exp(-(axis**2) / (2 * 0.01)) / np.sqrt(2 * np.pi * 0.01) for axis in distances)
        weights = torch.from_numpy(np.outer(rows, columns))
        weighted_sum, weight_sum = latents.new_zeros(2, *latents.shape[1:]), torch.zeros_like(latents)
        for index in sorted(range(len(windows)), key=lambda index: (windows[index].left, windows[index].top)):
            window = windows[index]
            window.crop(weighted_sum).add_(predict(window.crop(latents).clone(), index) * weights)
            window.crop(weight_sum).add_(weights)
        return super().guide((weighted_sum / weight_sum).chunk(2))


def load_pipeline(
    weights: Path, networks: OfficialNetworks, dtype: torch.dtype, kind: type[ReplayedPipeline] = ExactPipeline
) -> ReplayedPipeline:
    pipeline = kind(
        vae=AutoencoderKL.from_pretrained(weights / "vae").to(dtype),
        text_encoder=None,
        tokenizer=None,
        scheduler=DDPMScheduler.from_pretrained(weights / "scheduler"),
        **{name: getattr(networks, name) for name in ("unet", "controlnet", "adapter")},
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sampling_outputs(pipeline: ReplayedPipeline, given: Tensors, options: dict[str, Any]) -> Tensors:
    negative, positive = given["emb.prompt_neg_pos"].split(1)
    negative_low_level, low_level = given["emb.lowlevel_neg_pos"].split(1)
    image, factor = given["in.image_01"], pipeline.vae_scale_factor
    pipeline.scheduler.set_timesteps(options["num_inference_steps"])
    latents = given["noise.pipe.0"]
    outputs: Tensors = {"mid.timesteps": pipeline.scheduler.timesteps}
    if not options["init_latent_with_noise"]:
        pipeline.vae_noise = given["noise.vae.0"]
        # Twice as in the official code. What the pipeline does at once differs in the last bit.
        latents = pipeline.encode_image(image, tile_size=max(image.shape[-2:]), tile_overlap=0)
        latents = pipeline.scheduler.add_noise(latents, given["noise.pipe.0"], pipeline.scheduler.timesteps[:1])
        level = torch.tensor([options["added_noise_level"]])
        latents = pipeline.scheduler.add_noise(latents, given["noise.pipe.1"], level)
        outputs |= {"mid.vae_mean": pipeline.posterior.mean, "mid.vae_std": pipeline.posterior.std}
    outputs["mid.init_latents"] = latents

    def keep_step(_: XPSRPipeline, step: int, timestep: Any, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        outputs[f"mid.latents_after_step.{step}"] = tensors["latents"]
        return tensors

    calls: list[torch.Tensor] = []
    handle = pipeline.unet.register_forward_hook(lambda module, args, output: calls.append(output[0]))
    noises = [given[f"noise.step.{step}"] for step in range(options["num_inference_steps"])]
    with replayed(noises), patch.object(diffusers_sr.pipeline, "tiled_map", pipeline.blend):
        latents = pipeline.denoise(
            latents,
            image,
            positive,
            negative,
            conditioning={"low_level_prompt": low_level, "negative_low_level_prompt": negative_low_level},
            guidance_scale=options["guidance_scale"],
            controlnet_conditioning_scale=options["conditioning_scale"],
            tile_size=options["latent_tiled_size"] * factor,
            tile_overlap=options["latent_tiled_overlap"] * factor,
            callback_on_step_end=keep_step,
        )
    handle.remove()
    outputs |= _numbered("mid.unet_out_call", calls)
    outputs["out.latents"] = latents
    outputs["out.vae_decoded_m11"] = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    return outputs


@contextmanager
def replayed(noises: list[torch.Tensor]) -> Iterator[None]:
    """Let the scheduler draw these, one a step."""
    remaining = iter(noises)
    with patch.object(scheduling_ddpm, "randn_tensor", lambda *args, **kwargs: next(remaining)):
        yield


def _numbered(name: str, tensors: list[torch.Tensor]) -> Tensors:
    return {f"{name}.{index}": tensor for index, tensor in enumerate(tensors)}
