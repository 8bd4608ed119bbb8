"""HYPIR on weights in the official layout: three tiled stages, each on tiles of its own.

WEIGHTS_DIR and INPUTS are as in `one_step`; the settings are `patch_size`, `stride` and `upscale`. It gives
`tile_latents_unscaled.<i>` and `tile_denoised_unscaled.<i>`, the UNet's stage for each tile, rows first, divided by
the VAE's factor; `decoder_input.<i>`; and `final` `[1, 3, H, W]` in [0, 1].

Everything is the official code's (`HYPIR/enhancer/base.py`), in the type that is asked for instead of bfloat16:
tensors instead of Pillow, in float32 until they are encoded; a picture that is not longer than a patch enlarged to it,
padding with mid grey, weights with their centre half a pixel below the middle, and the wavelet fix against the picture
before it was enlarged. The VAE's posterior is its mean: the official code draws from it for each tile, which one draw
for the picture cannot repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler

from diffusers_sr.image.color import wavelet
from diffusers_sr.image.tiling import Window, tile_starts
from diffusers_sr.one_step.prediction import denoise
from diffusers_sr.sampling.closed_form import alpha_bar
from tests.parity.one_step import load
from tests.parity.one_step_case import Tensors, prompt_embeds, read_case
from tests.parity.one_step_tiles import tile_weights

UNIT = 8  # pixels of a latent


def forward(weights: Path, inputs: Path, dtype: torch.dtype, cases: Path | None) -> Tensors:
    case = read_case(inputs, cases)
    model = load("hypir", weights, dtype)
    scheduler = DDPMScheduler.from_pretrained(weights / "base", subfolder="scheduler")
    embeds = prompt_embeds(case, weights / "base", "").to(dtype)
    patch, stride = case.settings.get("patch_size", 512), case.settings.get("stride", 256)
    timestep = case.settings.get("timestep", model.timestep)
    level, scale = alpha_bar(scheduler, timestep), model.vae.config.scaling_factor
    outputs: Tensors = {}

    def restore(tile: torch.Tensor) -> torch.Tensor:
        latents = tile * scale
        noise = model.unet(latents, timestep, encoder_hidden_states=embeds).sample
        restored = denoise(model.prediction, latents, noise, level) / scale
        index = sum(name.startswith("tile_latents") for name in outputs)
        outputs[f"tile_latents_unscaled.{index}"] = tile.clone()
        outputs[f"tile_denoised_unscaled.{index}"] = restored
        return restored

    def decode(tile: torch.Tensor) -> torch.Tensor:
        index = sum(name.startswith("decoder_input") for name in outputs)
        outputs[f"decoder_input.{index}"] = tile.clone()
        decoded: torch.Tensor = model.vae.decode(tile).sample
        return decoded

    photo = case.tensor("lr").permute(2, 0, 1)[None] / 255
    reference = F.interpolate(photo, scale_factor=case.settings.get("upscale", 4), mode="bicubic")
    enlarged = (at_least(reference, patch) * 2 - 1).to(dtype)
    height, width = enlarged.shape[-2:]
    padded = F.pad(enlarged, (0, -width % UNIT, 0, -height % UNIT))
    sizes = (patch // UNIT, stride // UNIT)
    latents = tiled(lambda tile: model.vae.encode(tile).latent_dist.mean, padded, patch, stride, 1 / UNIT)
    image = tiled(decode, tiled(restore, latents, *sizes, 1), *sizes, UNIT)[..., :height, :width]
    image = F.interpolate((image + 1) / 2, size=reference.shape[-2:], mode="bicubic", antialias=True)
    outputs["final"] = wavelet(image, reference)
    return outputs


def at_least(image: torch.Tensor, side: int) -> torch.Tensor:
    """Enlarge a picture, one side of which is not longer than a patch, until that side is as long."""
    height, width = image.shape[-2:]
    if min(height, width) > side:
        return image
    smaller = min(height, width)
    size = [int(length * (side / smaller)) if length > smaller else side for length in (height, width)]
    return F.interpolate(image, size=size, mode="bicubic", antialias=True)


def tiled(
    function: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, side: int, stride: int, scale: float
) -> torch.Tensor:
    """Apply a stage to tiles, rows first, and blend them in the type of the image, with the sum of weights in float32.

    Args:
        scale: pixels of the result to one of `image`.
    """
    height, width = image.shape[-2:]
    weights = tile_weights(int(side * scale), is_symmetric=False).to(image.dtype)
    total: torch.Tensor | None = None
    count = torch.zeros(int(height * scale), int(width * scale))
    for top in tile_starts(height, side, side - stride):
        for left in tile_starts(width, side, side - stride):
            result = function(Window(top, left, side, side).crop(image))
            if total is None:
                total = image.new_zeros(*result.shape[:2], *count.shape)
            target = Window(int(top * scale), int(left * scale), *result.shape[-2:])
            target.crop(total).add_(result * weights)
            target.crop(count).add_(weights)
    assert total is not None
    return total / count
