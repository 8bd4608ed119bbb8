"""Shared by the tests of `AttentionAdapter`: small hosts, SeeSR's adapter for them, what may not be left behind."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ModelMixin
from torch import nn

from diffusers_sr.seesr.adapter import SeeSRAdapter
from tests.components import TEXT_DIM, randomise, tiny_controlnet, tiny_unet
from tests.seesr.components import REPRESENTATION_DIM

TOKENS = 5


class Models:
    """A UNet, a ControlNet and an adapter that is attached to neither yet, with inputs for a call."""

    def __init__(self, **overrides: Any) -> None:
        torch.manual_seed(0)
        self.unet = tiny_unet(**overrides).eval()
        self.controlnet = tiny_controlnet(**overrides).eval()
        self.adapter = self.new_adapter()
        self.sample = torch.randn(2, 4, 8, 8)
        self.text = torch.randn(2, 7, TEXT_DIM)
        self.image = torch.rand(2, 3, 64, 64)
        self.representation = torch.randn(2, TOKENS, REPRESENTATION_DIM)

    def new_adapter(self) -> SeeSRAdapter:
        return randomise(SeeSRAdapter.from_hosts(self.unet, self.controlnet, REPRESENTATION_DIM)).eval()

    def attach(self) -> Models:
        self.adapter.attach(self.unet).attach(self.controlnet)
        return self

    def unet_output(self, unet: nn.Module | None = None) -> torch.Tensor:
        unet = self.unet if unet is None else unet
        return unet(self.sample, 500, self.text, return_dict=False)[0]

    def controlnet_output(self, condition: torch.Tensor | None = None) -> torch.Tensor:
        condition = self.image if condition is None else condition
        down, middle = self.controlnet(self.sample, 500, self.text, condition, return_dict=False)
        return torch.cat([residual.flatten() for residual in (*down, middle)])

    def outputs(self) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([self.unet_output().flatten(), self.controlnet_output()])

    def conditioned_outputs(self) -> torch.Tensor:
        with self.adapter.conditioning(representation=self.representation):
            return self.outputs()


def leftovers(model: ModelMixin) -> dict[str, Any]:
    """Everything attaching could leave behind in a model."""
    return {
        "representation": repr(model),
        "state": {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()},
        "processors": {name: id(processor) for name, processor in model.attn_processors.items()},
        "attributes": {name: sorted(module.__dict__) for name, module in model.named_modules()},
        "modules": {name: id(module) for name, module in model.named_modules()},
    }


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()
