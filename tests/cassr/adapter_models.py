"""A UNet and a ControlNet with CasSR's attention, for its tests."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from diffusers_sr.attention.control_features import control_features
from diffusers_sr.cassr.adapter import CasSRAdapter, ControlAttention
from tests.components import TEXT_DIM, components


class Models(NamedTuple):
    unet: UNet2DConditionModel
    controlnet: ControlNetModel
    adapter: CasSRAdapter
    sample: torch.Tensor
    text: torch.Tensor

    def features(self, seed: int) -> list[torch.Tensor]:
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        return control_features(self.controlnet, self.sample, torch.tensor(500), self.text, image)

    @torch.no_grad()
    def conditioning(self, lr: int = 1, reference: int = 2, **scales: float) -> dict[str, Any]:
        return {"lr": self.features(lr), "reference": self.features(reference), **scales}

    @torch.no_grad()
    def call(self, unet: UNet2DConditionModel | None = None, copies: int = 1, **inputs: Any) -> torch.Tensor:
        sample, text = (tensor.repeat(copies, *(1,) * (tensor.ndim - 1)) for tensor in (self.sample, self.text))
        return (self.unet if unet is None else unet)(sample, 500, text, return_dict=False, **inputs)[0]

    def attention(self, site: str, name: str) -> ControlAttention:
        attentions = self.adapter.unet[site.replace(".", "__")]
        assert isinstance(attentions, torch.nn.ModuleDict)
        attention = attentions[name]
        assert isinstance(attention, ControlAttention)
        return attention


def new_models() -> Models:
    parts = components("cassr")
    torch.manual_seed(0)
    return Models(
        parts["unet"], parts["controlnet"], parts["adapter"], torch.randn(1, 4, 8, 8), torch.randn(1, 7, TEXT_DIM)
    )


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()
