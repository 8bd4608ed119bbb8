"""The memory that a step takes for a tile: the rows of `diffusers_sr/sampling/memory_table.py`.

    python benchmarks/tile_memory.py [--models full small] [--vaes full FOLDER] [--side 512]

A guided step of each method's denoiser, and encoding and decoding by the autoencoder, run on tensors that have shapes
and types but no data (`FakeTensorMode`); each storage is counted from its creation until it is freed. So it takes
seconds, at full size too, and needs no GPU. What single operations use internally, such as the workspaces of
convolutions, is not in it. "full" has the shapes of the published models, "small" those of the embedded ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.utils import logging
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script, too, it finds its neighbours

from benchmarks.full_size import REPRESENTATION_DIM, UNETS, VAE
from benchmarks.seesr_step import REPRESENTATION_TOKENS, TEXT_TOKENS
from benchmarks.training_memory import Computed
from diffusers_sr.cassr.adapter import CasSRAdapter
from diffusers_sr.cassr.denoiser import CasSRControl, CasSRDenoiser
from diffusers_sr.coser.adapter import CoSeRAdapter
from diffusers_sr.coser.controlnet import LatentControlNetModel
from diffusers_sr.coser.denoiser import CoSeRControl, CoSeRDenoiser
from diffusers_sr.hub import BASE, METHODS, MODELS, pipeline_class
from diffusers_sr.image.tiling import Window
from diffusers_sr.one_step.denoiser import OneStepDenoiser
from diffusers_sr.sampling.denoiser import Denoiser
from diffusers_sr.sampling.fit import width_of
from diffusers_sr.seesr.adapter import SeeSRAdapter
from diffusers_sr.seesr.denoiser import SeeSRControl, SeeSRDenoiser
from diffusers_sr.xpsr.adapter import XPSRAdapter
from diffusers_sr.xpsr.denoiser import XPSRControl, XPSRDenoiser

DTYPES = {"float32": torch.float32, "float16": torch.float16}
SMALL = MODELS / BASE
FULL = "full"
UNITS = {FULL: 8, "small": 4}
"""Pixels per latent."""


def unet_config(size: str, method: str) -> dict[str, Any]:
    """Read or choose the configuration of a method's UNet."""
    if size == "small":
        config = UNet2DConditionModel.load_config(SMALL / "unet")
        return {name: value for name, value in config.items() if not name.startswith("_")}
    return UNETS["1.5" if method in ("cassr", "xpsr", "pasd") else "2"]


def controlnet_for(unet: UNet2DConditionModel, unit: int, kind: type[ControlNetModel]) -> ControlNetModel:
    """Make a ControlNet of a UNet's shapes, with the default channels for the image, which it reduces to latents."""
    embedding = (16, 32, 96, 256)[: unit.bit_length()]
    names = ["in_channels", "down_block_types", "block_out_channels", "layers_per_block", "cross_attention_dim"]
    names += ["attention_head_dim", "use_linear_projection", "norm_num_groups"]
    options = {name: unet.config[name] for name in names} | {"conditioning_embedding_out_channels": embedding}
    if kind is LatentControlNetModel:
        options["conditioning_channels"] = unet.config.in_channels
    return kind(**options)


class Case:
    """A method's denoiser, and what it is shown, on tensors without data."""

    def __init__(self, method: str, size: str, dtype: torch.dtype, place: Computed) -> None:
        self.method, self.dtype, self.place, self.unit = method, dtype, place, UNITS[size]
        with torch.device("meta"):
            unet = UNet2DConditionModel(**unet_config(size, method))
            self.models: dict[str, nn.Module] = {"unet": unet} | self._own(unet)
        for model in self.models.values():
            place.place(model.to(dtype).eval().requires_grad_(False))
        self.channels, self.text_dim = unet.config.in_channels, unet.config.cross_attention_dim

    def _own(self, unet: UNet2DConditionModel) -> dict[str, nn.Module]:
        if self.method == "one_step":
            return {}
        controlnet = controlnet_for(
            unet, self.unit, LatentControlNetModel if self.method == "coser" else ControlNetModel
        )
        adapters: dict[str, Callable[[], nn.Module]] = {
            "seesr": lambda: SeeSRAdapter.from_hosts(unet, controlnet, REPRESENTATION_DIM),
            "coser": lambda: CoSeRAdapter.from_hosts(unet, controlnet),
            "cassr": lambda: CasSRAdapter.from_hosts(unet, controlnet),
            "xpsr": lambda: XPSRAdapter.from_hosts(unet, controlnet),
            "pasd": lambda: XPSRAdapter.from_hosts(unet, controlnet, fusion=False),
        }
        return {"controlnet": controlnet, "adapter": adapters[self.method]()}

    def denoiser(self) -> Denoiser:
        unet: Any = self.models["unet"]
        if self.method == "one_step":
            return OneStepDenoiser(unet)
        adapter: Any = self.models["adapter"]
        adapter.attach(unet).attach(self.models["controlnet"])
        kinds: dict[str, Any] = {"seesr": SeeSRDenoiser, "coser": CoSeRDenoiser, "cassr": CasSRDenoiser}
        denoiser: Denoiser = kinds.get(self.method, XPSRDenoiser)(unet, self.models["controlnet"], adapter)
        return denoiser

    def control(self, denoiser: Any, image: torch.Tensor, latents: torch.Tensor) -> Any:
        """Make what the denoiser is shown of an image."""
        text = torch.zeros(1, TEXT_TOKENS, self.text_dim, dtype=self.dtype)
        if self.method == "seesr":
            seen = torch.zeros(1, REPRESENTATION_TOKENS, REPRESENTATION_DIM, dtype=self.dtype)
            return SeeSRControl(image, denoiser.adapter.prepare(representation=seen))
        if self.method == "coser":
            return CoSeRControl(latents, [latents.clone()])
        if self.method == "cassr":
            return CasSRControl(image, image.clone())
        if self.method == "xpsr":
            return XPSRControl(image, [denoiser.adapter("prepare_low_level", each) for each in (text, text.clone())])
        return XPSRControl(image, []) if self.method == "pasd" else None

    @torch.no_grad()
    def step(self, side: int) -> int:
        """Count the bytes of a guided step on an image of this side in one tile, beyond the weights."""
        with self.place.running():
            image = torch.zeros(1, 3, side * self.unit, side * self.unit)
            latents = torch.zeros(1, self.channels, side, side, dtype=self.dtype)
            texts = [torch.zeros(1, TEXT_TOKENS, self.text_dim, dtype=self.dtype) for _ in range(2)]
            denoiser = self.denoiser()
            self.place.reset_peak()
            before = self.place.current()
            texts = texts[:1] if self.method == "one_step" else texts
            (control,) = denoiser.control_tiles(
                self.control(denoiser, image, latents), 1, [[Window(0, 0, side, side)]], self.unit
            )
            denoiser.predict(latents, torch.tensor(500), texts, control)
        return self.place.peak() - before


def autoencoder(name: str) -> Any:
    """Make an autoencoder of the published shapes, or of those of a folder."""
    if name == FULL:
        return AutoencoderKL(**VAE)
    kind = getattr(diffusers, AutoencoderKL.load_config(name)["_class_name"])
    return kind.from_config(kind.load_config(name))


@torch.no_grad()
def autoencoding(vae: Any, side: int) -> int:
    """Count the bytes of encoding and of decoding an image of this side whole, whichever are more."""
    place = Computed()
    place.place(vae.eval().requires_grad_(False))
    peaks = []
    with place.running():
        image = torch.zeros(1, 3, side, side, dtype=vae.dtype)
        encoded = vae.encode(image)
        latents = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded[0]
        for run in (lambda: vae.encode(image), lambda: vae.decode(latents)):
            place.reset_peak()
            before = place.current()
            run()
            peaks.append(place.peak() - before)
    return max(peaks)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=UNITS, default=list(UNITS))
    parser.add_argument("--vaes", nargs="*", default=[str(SMALL / "vae"), FULL], help="folders, or full (%(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--side", type=int, default=512, help="of the tile, in pixels (%(default)s)")
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    for size in options.models:
        side = options.side // UNITS[size]
        for method in options.methods:
            sizes = {}
            for name, dtype in DTYPES.items():
                case = Case(method, size, dtype, Computed())
                sizes[name] = round(case.step(side) / side**2)
            width = width_of(case.models["unet"])
            print(f'    ("{pipeline_class(method).__name__}", {width}): {sizes},', flush=True)
    for source in options.vaes:
        sizes = {}
        for name, dtype in DTYPES.items():
            with torch.device("meta"):
                vae = autoencoder(source).to(dtype)
            sizes[name] = round(autoencoding(vae, options.side) / options.side**2)
        print(f'    ("{type(vae).__name__}", {width_of(vae)}): {sizes},', flush=True)


if __name__ == "__main__":
    main()
