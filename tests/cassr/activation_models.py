"""A UNet with SCEdit's tuners, for their tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from diffusers_sr.cassr.activation import SCEditAdapter
from tests.components import TEXT_DIM, randomise, tiny_unet

HINTS = {"hint_channels": (4, 6, 8, 8)}  # three strides: eight pixels to a latent


class Models:
    """A UNet and a random adapter that is attached to it, with the inputs of a call."""

    def __init__(self, batch: int = 1, size: tuple[int, int] = (8, 8), attach: bool = True, **options: Any) -> None:
        torch.manual_seed(0)
        self.unet = tiny_unet().eval()
        self.adapter = randomise(SCEditAdapter.from_host(self.unet, **{**HINTS, **options})).eval()
        with torch.no_grad():  # images have to differ by more than the biases leave of them
            for conv in self.adapter.hint_embedding[::2]:
                conv.weight *= 3
        self.sample = torch.randn(batch, 4, *size)
        self.text = torch.randn(batch, 7, TEXT_DIM)
        self.image = torch.rand(batch, 3, 8 * size[0], 8 * size[1])
        if attach:
            self.adapter.attach(self.unet)

    @torch.no_grad()
    def call(self, model: nn.Module | None = None, sample: torch.Tensor | None = None, **inputs: Any) -> torch.Tensor:
        sample = self.sample if sample is None else sample
        text = self.text[:1].expand(len(sample), -1, -1) if len(sample) != len(self.text) else self.text
        return (self.unet if model is None else model)(sample, 500, text, return_dict=False, **inputs)[0]

    @torch.no_grad()
    def embed(self, image: torch.Tensor | None = None) -> list[torch.Tensor]:
        return self.adapter.embed(self.image if image is None else image)

    def conditioned(self, image: torch.Tensor | None = None, scale: float = 1.0) -> torch.Tensor:
        with self.adapter.conditioning(hints=self.embed(image), scale=scale):
            return self.call()


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()
