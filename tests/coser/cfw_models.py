"""An autoencoder with fusion layers, for the tests of CFW."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

from diffusers_sr.coser.cfw import ControllableFeatureWrapping, Features
from tests.components import randomise


class Models:
    """An autoencoder, fusion layers that make a difference, and what goes into them."""

    def __init__(self, channels: tuple[int, ...] = (8, 16, 24, 32)) -> None:
        torch.manual_seed(0)
        self.vae = new_vae(channels)
        self.cfw = randomise(ControllableFeatureWrapping.from_vae(self.vae, num_rrdbs=1, growth_channels=4)).eval()
        self.factor = 2 ** (len(channels) - 1)
        self.image = 2 * torch.rand(2, 3, 3 * self.factor, 5 * self.factor) - 1
        self.latents = torch.randn(2, 4, 3, 5)

    @torch.no_grad()
    def features(self, image: torch.Tensor | None = None) -> Features:
        return self.cfw.encode(self.vae, self.image if image is None else image)[1]

    @torch.no_grad()
    def decode(self, weight: float = 0.5) -> torch.Tensor:
        return self.cfw.decode(self.vae, self.latents, self.features(), weight)

    @torch.no_grad()
    def stock(self) -> torch.Tensor:
        return self.vae.decode(self.latents).sample


def new_vae(channels: tuple[int, ...]) -> AutoencoderKL:
    """One with other channels at every level, so that none can be taken for another."""
    return randomise(
        AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=64,
        )
    ).eval()


def difference(output: torch.Tensor, expected: torch.Tensor) -> float:
    return ((output.float() - expected).norm() / expected.norm()).item()
