"""One-step models on weights in the official layouts.

WEIGHTS_DIR has the base Stable Diffusion in `base/`, and the checkpoint under its official name: `pisa_sr.pkl`,
`osediff.pkl`, `unet/` and `vae/` (GDPO-SR, also in `GDPOSR/`; without them `base/` stands for them),
`unet_lora_adapter/` and `vae_encoder_lora_adapter/` (OMGSR), `HYPIR_sd2.pth`. INPUTS is `case_<name>.safetensors`,
with its settings under this name in a `cases.json` beside it. Read of it are `input`, or `lr` without it;
`prompt_embeds`, or `prompt_ids`, or the `prompt` of the settings; `latent_noise`, without which the latents are the
posterior's mean; and GDPO-SR's `noise`.

It gives `latent_mean`, `latent_std`, `latents`, `noisy_latents` (GDPO-SR), `model_pred`, `tile_weights`, `denoised`,
`decoded` and the pictures `output`, `output_adain`, `output_wavelet` and `final`. A file of PiSA-SR whose name is not
in the settings is one picture for all `dial_<pix>_<sem>` there: it gives `unet_pix_and_sem` and `unet_pix_only` too,
and `model_pred.<pix>_<sem>` and so on. HYPIR is in `one_step_hypir`, AddSR in `addsr`.

Sizes, tiles and rounding are the official scripts', also where the pipeline deliberately differs (`one_step_tiles`,
`one_step_case`): a picture is squeezed to multiples of 8, OSEDiff and GDPO-SR do not bring an enlarged small picture
back to its size, and bytes are cut off instead of rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

from diffusers_sr.one_step.convert_gdpo import read_gdpo
from diffusers_sr.one_step.convert_hypir import read_hypir
from diffusers_sr.one_step.convert_lora import Converted
from diffusers_sr.one_step.convert_omgsr import read_omgsr
from diffusers_sr.one_step.convert_osediff import read_osediff
from diffusers_sr.one_step.convert_pisa import read_pisa
from diffusers_sr.one_step.prediction import PIXEL, denoise, dial_passes, weighted_sum
from diffusers_sr.sampling.closed_form import add_noise, alpha_bar
from tests.parity.one_step_case import Case, Tensors, picture, pictures, prompt_embeds, read_case
from tests.parity.one_step_tiles import official_windows, predict_tiled, tile_weights

DEFAULT_PROMPT = {"pisa": "", "omgsr": ""}
"""The methods without one need a prompt in the settings, if there is no embedding."""


def forward(method: str, weights: Path, inputs: Path, dtype: torch.dtype, cases: Path | None) -> Tensors:
    case = read_case(inputs, cases)
    model = load(method, weights, dtype)
    scheduler = DDPMScheduler.from_pretrained(weights / "base", subfolder="scheduler")
    embeds = prompt_embeds(case, weights / "base", DEFAULT_PROMPT.get(method, "")).to(dtype)
    source = picture(case)
    outputs = encode(model.vae, source, case.given.get("latent_noise"), dtype)
    latents = outputs["latents"]
    if model.noise_timestep is not None:
        level = alpha_bar(scheduler, case.settings.get("noise_timestep", model.noise_timestep))
        latents = outputs["noisy_latents"] = add_noise(latents, case.tensor("noise").to(dtype), level)
    timestep = case.settings.get("timestep", model.timestep)
    run = partial(run_unet, model, latents, timestep, embeds, tiles_of(method, case, latents))
    if case.dials:
        outputs |= {"unet_pix_and_sem": run((1, 1))[0].to(dtype), "unet_pix_only": run((1, 0))[0].to(dtype)}
    for suffix, dials in (case.dials or {"": dials_of(method, case)}).items():
        prediction, more = run(dials)
        if method == "omgsr":  # only this code takes a float32 blend of tiles back to the type of its models
            prediction = prediction.to(dtype)
        restored = denoise(model.prediction, latents, prediction, alpha_bar(scheduler, timestep))
        decoded = model.vae.decode(restored / model.vae.config.scaling_factor).sample.clamp(-1, 1)
        results = {"model_pred": prediction.to(dtype), "denoised": restored, "decoded": decoded, **more}
        results |= pictures(decoded, source, case, is_restored=method in ("pisa", "omgsr"))
        outputs |= {f"{name}.{suffix}" if suffix else name: tensor for name, tensor in results.items()}
    return outputs


def load(method: str, weights: Path, dtype: torch.dtype) -> Converted:
    """Read the checkpoint. The base is in `dtype` before anything is merged into it."""
    if method == "gdpo":
        folders = (weights, weights / "GDPOSR", weights / "base")
        model = read_gdpo(next((folder for folder in folders if (folder / "unet").is_dir()), weights))
        model.unet.to(dtype), model.vae.to(dtype)
        return model
    unet = UNet2DConditionModel.from_pretrained(weights / "base", subfolder="unet").to(dtype)
    vae = AutoencoderKL.from_pretrained(weights / "base", subfolder="vae").to(dtype)
    readers: dict[str, Callable[[], Converted]] = {
        "pisa": lambda: read_pisa(weights / "pisa_sr.pkl", unet, vae),
        "osediff": lambda: read_osediff(weights / "osediff.pkl", unet, vae),
        "omgsr": lambda: read_omgsr(weights, unet, vae),
        "hypir": lambda: read_hypir(weights / "HYPIR_sd2.pth", unet, vae),
    }
    model = readers[method]()
    assert model.lora is not None
    model.lora.attach(model.unet)
    return model


def encode(vae: AutoencoderKL, source: Any, noise: torch.Tensor | None, dtype: torch.dtype) -> Tensors:
    pixels = (torch.from_numpy(source.copy()).permute(2, 0, 1)[None] / 255 * 2 - 1).to(dtype)
    posterior = vae.encode(pixels).latent_dist
    latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(dtype)
    scale = vae.config.scaling_factor
    return {"latent_mean": posterior.mean, "latent_std": posterior.std, "latents": latents * scale}


def run_unet(
    model: Converted,
    latents: torch.Tensor,
    timestep: int,
    embeds: torch.Tensor,
    tiles: tuple[list[Any], torch.Tensor] | None,
    dials: tuple[float, float],
) -> tuple[torch.Tensor, Tensors]:
    """Predict, tile by tile if there are tiles, and give the weights of a tile besides."""
    lora = model.lora
    is_pair = lora is not None and PIXEL in lora.names
    passes = dial_passes(*dials) if is_pair else dial_passes(1, 1)

    def predict_sets(tile: torch.Tensor, sets: tuple[str, ...]) -> torch.Tensor:
        if is_pair and lora is not None:
            lora.activate(model.unet, sets)
        noise: torch.Tensor = model.unet(tile, timestep, encoder_hidden_states=embeds).sample
        return noise

    def predict(tile: torch.Tensor) -> torch.Tensor:
        return weighted_sum(passes, partial(predict_sets, tile))

    if tiles is None:
        return predict(latents), {}
    return predict_tiled(predict, latents, *tiles), {"tile_weights": tiles[1]}


def tiles_of(method: str, case: Case, latents: torch.Tensor) -> tuple[list[Any], torch.Tensor] | None:
    """Give the tiles and the weights of one, or None for a picture that is not cut. GDPO-SR has no tiles."""
    if method == "gdpo":
        return None
    tile, overlap = 96, 32
    if method == "omgsr":
        tile = case.settings.get("process_size", 512) // 8
        overlap = tile // 2
    tile = case.settings.get("latent_tiled_size", tile)
    height, width = latents.shape[-2:]
    windows = official_windows(height, width, tile, case.settings.get("latent_tiled_overlap", overlap))
    if len(windows) == 1:
        return None
    return windows, tile_weights(windows[0].height, is_symmetric=method == "pisa")


def dials_of(method: str, case: Case) -> tuple[float, float]:
    if method != "pisa" or case.settings.get("default", True):
        return 1, 1
    return case.settings["lambda_pix"], case.settings["lambda_sem"]
