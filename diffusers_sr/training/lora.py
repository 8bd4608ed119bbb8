"""LoRA sets that are trained: new ones for a model, and the weights that a run has given them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..one_step.lora import A, B, LoraSets, layer_sizes

ALPHA = 8
"""PEFT's default, which PiSA-SR and OSEDiff were trained with: their codes name no alpha."""

_LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    *("conv1", "conv2", "conv_shortcut", "conv", "conv_in", "conv_out"),
)


def lora_layers(host: nn.Module, beginning: str = "") -> list[str]:
    """List the layers of a model that PiSA-SR and OSEDiff give a LoRA to.

    They are those of attention and feed-forward, and all convolutions; those of time embeddings are not among them.

    Args:
        host: a UNet or an autoencoder.
        beginning: that of the names of the layers, such as "mid_block.".
    """
    return [
        path
        for path, layer in host.named_modules()
        if path.startswith(beginning)
        and layer_sizes(layer) is not None
        and any(f".{path}".endswith(f".{name}") for name in _LAYERS)
    ]


def new_set(host: nn.Module, rank: int, layers: list[str] | None = None) -> dict[str, torch.Tensor]:
    """Make the weights of a LoRA that changes nothing yet: A is drawn with deviation 1 / rank, B is zero.

    Args:
        host: the model it is for.
        rank: of every layer.
        layers: by default `lora_layers`.
    """
    weights = {}
    for path in lora_layers(host) if layers is None else layers:
        inputs, outputs, *kernel = layer_sizes(host.get_submodule(path)) or []
        weights[path + A] = torch.randn(rank, inputs, *kernel) / rank
        weights[path + B] = torch.zeros(outputs, rank, *[1] * len(kernel))
    return weights


def train_sets(host: nn.Module, trained: tuple[str, ...]) -> None:
    """Let those LoRA sets train that are named, and nothing else of the model they are attached to."""
    host.requires_grad_(False)
    for layer in _layers(host).values():
        for name in trained:
            for part in (layer.lora_A, layer.lora_B):
                if name in part:
                    part[name].requires_grad_(True)


def trained_sets(lora: LoraSets, host: nn.Module) -> LoraSets:
    """Give the sets as they are on the model that they are attached to, where they are trained."""
    layers = _layers(host)

    def weights(name: str) -> Mapping[str, torch.Tensor]:
        return {
            path + suffix: part[name].weight.detach()
            for path in lora.modules_of(name)
            for suffix, part in ((A, layers[path].lora_A), (B, layers[path].lora_B))
        }

    return LoraSets.from_state_dicts({name: (weights(name), lora.config.sets[name]["alpha"]) for name in lora.names})


def _layers(host: nn.Module) -> dict[str, Any]:
    return {path: layer for path, layer in host.named_modules() if isinstance(layer, BaseTunerLayer)}
