"""A UNet and a ControlNet with XPSR's attention, for its tests."""

from __future__ import annotations

from typing import Any

import torch

from diffusers_sr.attention.control_features import control_features
from diffusers_sr.xpsr.adapter import XPSRAdapter
from tests.components import TEXT_DIM, randomise, tiny_controlnet, tiny_unet

FUSION_SITE = "down_blocks.0.attentions.0"


class Models:
    """A UNet, a ControlNet and their adapter, attached, with inputs for a batch of two."""

    def __init__(self, fusion: str | bool = True, height: int = 8, width: int = 8, **overrides: Any) -> None:
        torch.manual_seed(0)
        self.unet, self.controlnet = tiny_unet(**overrides).eval(), tiny_controlnet(**overrides).eval()
        self.adapter = randomise(XPSRAdapter.from_hosts(self.unet, self.controlnet, fusion=fusion)).eval()
        self.sample = torch.randn(2, 4, height, width)
        self.text, self.low_level = torch.randn(2, 7, TEXT_DIM), torch.randn(2, 5, TEXT_DIM)
        self.image = torch.rand(2, 3, 8 * height, 8 * width)
        self.adapter.attach(self.unet).attach(self.controlnet)

    def prepared(self, low_level: torch.Tensor | None = None) -> Any:
        return self.adapter("prepare_low_level", self.low_level if low_level is None else low_level)

    def features(self, *prepared: Any, copies: int = 1, image: torch.Tensor | None = None) -> list[torch.Tensor]:
        image = self.image if image is None else image
        given = (tensor.repeat(copies, *(1,) * (tensor.ndim - 1)) for tensor in (self.sample, self.text, image))
        sample, text, image = given
        with self.adapter.conditioning(low_level=list(prepared) or None):
            return control_features(self.controlnet, sample, torch.tensor(500), text, image)

    def noise(
        self, controls: list[torch.Tensor] | None, copies: int = 1, unet: Any = None, skips: bool = True
    ) -> torch.Tensor:
        sample, text = (tensor.repeat(copies, *(1,) * (tensor.ndim - 1)) for tensor in (self.sample, self.text))
        residuals = {}
        if skips and controls is not None:
            *down, middle = controls
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        with self.adapter.conditioning(controls=controls):
            return (self.unet if unet is None else unet)(sample, 500, text, return_dict=False, **residuals)[0]

    @torch.no_grad()
    def outputs(self) -> torch.Tensor:
        controls = self.features(*([self.prepared()] if self.adapter.fuses_semantics else []))
        return torch.cat([tensor.flatten() for tensor in (*controls, self.noise(controls))])

    @torch.no_grad()
    def stock_outputs(self) -> torch.Tensor:
        sample, text = self.sample, self.text
        *down, middle = control_features(self.controlnet, sample, torch.tensor(500), text, self.image)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        output = self.unet(sample, 500, text, return_dict=False, **residuals)[0]
        return torch.cat([tensor.flatten() for tensor in (*down, middle, output)])


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()
