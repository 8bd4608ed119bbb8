"""AddSR's four steps on SeeSR's networks, in the official layout.

WEIGHTS_DIR has `unet/`, `controlnet/` and `vae/`, and `scheduler/` if the schedule is not Stable Diffusion's. INPUTS
is `case_<name>.safetensors`, with its `psr_weight` under this name in a `cases.json` beside it, and with `image`,
`prompt_embeds`, `representation.<i>`, `initial_noise` and `renoise.<i>`. It gives `latents.<i>`, `noise_pred.<i>`,
`denoised.<i>`, `condition.<i>`, `tagger_input_48.<i>` and `final`. The VAE's posterior is its mean.

The tagger's input is the official one here, resized bicubically in float16 and not clamped, and averaged over 8 × 8.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from diffusers_sr.image.tiling import Window
from diffusers_sr.seesr.call import DEFAULT_PSR_WEIGHT
from diffusers_sr.seesr.denoiser import SeeSRControl, SeeSRDenoiser
from diffusers_sr.seesr.four_steps import MAX_STEPS, FourStepScheduler
from diffusers_sr.seesr.refinement import refined_condition
from diffusers_sr.seesr.tagger import IMAGE_MEAN, IMAGE_STD
from tests.parity.one_step_case import Tensors, read_case
from tests.parity.seesr import load_networks


def forward(weights: Path, inputs: Path, dtype: torch.dtype, cases: Path | None) -> Tensors:
    case = read_case(inputs, cases)
    draws = [f"renoise.{step}" for step in range(MAX_STEPS - 1)]
    seen = [f"representation.{step}" for step in range(MAX_STEPS)]
    given = {name: case.tensor(name).to(dtype) for name in ("image", "prompt_embeds", "initial_noise", *seen, *draws)}
    unet, controlnet, adapter = load_networks(weights, dtype)
    vae = AutoencoderKL.from_pretrained(weights, subfolder="vae").to(dtype)
    adapter.attach(unet).attach(controlnet)
    denoiser = SeeSRDenoiser(unet, controlnet, adapter)
    scheduler = FourStepScheduler()
    if (weights / "scheduler").is_dir():
        scheduler = FourStepScheduler.from_pretrained(weights, subfolder="scheduler")
    scale = vae.config.scaling_factor
    image = condition = given["image"]
    start = scale * vae.encode(image * 2 - 1).latent_dist.mean
    latents = scheduler.add_noise(start, given["initial_noise"], scheduler.timesteps[:1])
    outputs: Tensors = {}
    for step, timestep in enumerate(scheduler.timesteps):
        control = SeeSRControl(condition, adapter.prepare(representation=given[f"representation.{step}"]))
        (control,) = denoiser.control_tiles(control, 1, [whole(latents)], image.shape[-1] // latents.shape[-1])
        (noise,) = denoiser.predict(latents, timestep, [given["prompt_embeds"]], control)
        result = scheduler.step(noise, timestep, latents, noise=given.get(f"renoise.{step}"))
        outputs |= {f"latents.{step}": latents, f"noise_pred.{step}": noise}
        outputs[f"denoised.{step}"] = result.pred_original_sample
        decoded = vae.decode(result.pred_original_sample / scale).sample
        latents = result.prev_sample
        if step + 1 < MAX_STEPS:
            weight = case.settings.get("psr_weight", DEFAULT_PSR_WEIGHT)
            condition = refined_condition(image, decoded / 2 + 0.5, weight)
            outputs[f"condition.{step + 1}"] = condition
            outputs[f"tagger_input_48.{step + 1}"] = tagger_input(condition)
        else:
            outputs["final"] = (decoded / 2 + 0.5).clamp(0, 1)
    return outputs


def whole(latents: torch.Tensor) -> list[Window]:
    """Give the one tile that is everything: the official code fails with more."""
    return [Window(0, 0, *latents.shape[-2:])]


def tagger_input(condition: torch.Tensor) -> torch.Tensor:
    resized = F.interpolate(condition, size=(384, 384), mode="bicubic")
    mean, std = (resized.new_tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return F.avg_pool2d(((resized - mean) / std).half().float(), 8)
