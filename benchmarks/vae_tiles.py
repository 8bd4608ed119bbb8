"""The cost of an autoencoder that works in bands, and how far it and blended tiles are from the whole one.

    OMP_WAIT_POLICY=passive python benchmarks/vae_tiles.py [--vae FOLDER] [--sides 512 1024 2048] [--device cuda]

A photograph, enlarged bicubically, is encoded, and its latents are decoded: whole, in bands of `--tile-size`, and in
tiles of 512 pixels that overlap by 128, are normalised alone, and are blended. The memory is the peak beyond models
and inputs; the seconds include asking the system for it. Decibels are of the image in [0, 1], and of the means of the
latents by the largest among them.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import skimage.data
import torch
from diffusers import AutoencoderKL

import diffusers_sr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script, too, it finds its neighbours

from benchmarks.seesr_step import peak_memory
from diffusers_sr.image.tiling import tile_windows, tiled_map
from diffusers_sr.sampling.autoencoder import decode_latents, encode_image, pixels_per_latent

EMBEDDED = Path(diffusers_sr.__file__).parent / "models" / "base-small" / "vae"
STABLE_DIFFUSION = "stable-diffusion"
NEVER = 1 << 20


def autoencoder(name: str) -> AutoencoderKL:
    """Load an autoencoder, or make one of Stable Diffusion's shapes with random weights."""
    if name != STABLE_DIFFUSION:
        return AutoencoderKL.from_pretrained(name).eval()
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    ).eval()


def ways_to_encode(vae: AutoencoderKL, image: torch.Tensor, tile_size: int) -> dict[str, Callable[[], torch.Tensor]]:
    """List the ways to compute the means of the latents of an image in [0, 1]."""
    unit = pixels_per_latent(vae)
    windows = tile_windows(image.shape[-2] // unit, image.shape[-1] // unit, 512 // unit, 128 // unit)

    def blended() -> torch.Tensor:
        return tiled_map(lambda tile, _: vae.encode(tile).latent_dist.mean, 2 * image - 1, windows, input_scale=unit)

    return {
        "whole": lambda: encode_image(vae, image, NEVER, unit).chunk(2, dim=1)[0],
        "bands": lambda: encode_image(vae, image, tile_size, unit).chunk(2, dim=1)[0],
        "blended": blended,
    }


def ways_to_decode(vae: AutoencoderKL, mean: torch.Tensor, tile_size: int) -> dict[str, Callable[[], torch.Tensor]]:
    """List the ways to decode latents to an image in [0, 1]."""
    unit = pixels_per_latent(vae)
    windows = tile_windows(mean.shape[-2], mean.shape[-1], 512 // unit, 128 // unit)
    latents = mean * vae.config.scaling_factor

    def blended() -> torch.Tensor:
        image = tiled_map(lambda tile, _: vae.decode(tile).sample, mean, windows, output_scale=unit)
        return (image / 2 + 0.5).clamp(0, 1)

    return {
        "whole": lambda: decode_latents(vae, latents, NEVER, unit),
        "bands": lambda: decode_latents(vae, latents, tile_size, unit),
        "blended": blended,
    }


def keep(run: Callable[[], torch.Tensor], results: list[torch.Tensor]) -> None:
    """Run one way, and keep its result."""
    results.append(run())


def compare(name: str, side: int, ways: dict[str, Callable[[], torch.Tensor]], device: torch.device) -> torch.Tensor:
    """Print a line for each way, and return the result of the first."""
    first: torch.Tensor | None = None
    for way, run in ways.items():
        results: list[torch.Tensor] = []
        start = time.perf_counter()
        peak = peak_memory(partial(keep, run, results), device)
        seconds = time.perf_counter() - start
        result = results.pop()
        if first is None:
            first = result
        error = (result - first).double().square().mean().sqrt().item() / first.abs().max().item()
        decibels = f"{-20 * math.log10(error):6.1f} dB" if error else "    equal"
        print(f"{name} {side:5d}² {way:8s} {peak / 1e6:8.0f} MB {seconds:8.1f} s  {decibels}", flush=True)
    assert first is not None
    return first


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vae", default=str(EMBEDDED), help=f"folder, or {STABLE_DIFFUSION} (the embedded models')")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--tile-size", type=int, default=512, help="of the bands (%(default)s)")
    parser.add_argument("--device", type=torch.device, default="cpu")
    options = parser.parse_args(arguments)
    vae = autoencoder(options.vae).to(options.device)
    photo = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None].float() / 255
    for side in options.sides:
        image = torch.nn.functional.interpolate(photo, (side, side), mode="bicubic").clamp(0, 1).to(options.device)
        mean = compare("encode", side, ways_to_encode(vae, image, options.tile_size), options.device)
        compare("decode", side, ways_to_decode(vae, mean, options.tile_size), options.device)


if __name__ == "__main__":
    main()
