"""The LoRA weights of official one-step checkpoints: which keys there have to be, and merging into a stock model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from ..conversion.checkpoints import PathLike, check_keys, check_real
from ..publishing.paper import Paper
from .lora import A, B, LoraSets, layer_sizes
from .prediction import Prediction

PromptSource = Literal["stored", "text", "tags"]

DEFAULT_ALPHA = 8
"""PEFT's default, which PiSA-SR and OSEDiff were trained with: they name no alpha."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The models of an official checkpoint, and what its official code does with them.

    Args:
        unet, vae: stock models with everything that is not in `lora`.
        lora: the LoRA sets; None if they are merged already.
        prediction: what the UNet predicts.
        timestep: the UNet's.
        noise_timestep: the one whose noise the photo's latents get; None for none.
        prompt_source: whether the prompt is the empty one, the user's, or preceded by a tagger's tags.
        paper: the one to credit.
        license: that of the weights, by the Hub's identifiers.
        terms: what is known of the terms of use, in words.
        is_restricted: whether they forbid what a free licence allows.
        call_defaults: those of the official code, where they are not the pipeline's.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    lora: LoraSets | None
    prediction: Prediction
    timestep: int
    noise_timestep: int | None = None
    prompt_source: PromptSource
    paper: Paper
    license: str
    terms: str
    is_restricted: bool = False
    call_defaults: dict[str, Any] = field(default_factory=dict)


def lora_shapes(
    host: nn.Module, modules: Iterable[str], ranks: Mapping[str, int] | int, source: PathLike
) -> dict[str, torch.Size]:
    """Give the shapes of the LoRA weights that modules of a model have, by `<module>.lora_{A,B}.weight`.

    Args:
        modules: names of linear layers and convolutions; a name may be repeated.
        ranks: one for each module, or one for all.
        source: what errors call the checkpoint.

    Raises:
        ValueError: if the model has no such layers; all of them are listed.
    """
    layers = dict(host.named_modules())
    names = list(dict.fromkeys(modules))
    if unknown := [name for name in names if layer_sizes(layers.get(name)) is None]:
        raise ValueError(
            f"{source} has LoRA weights for layers that the base's {type(host).__name__} does not have: {unknown}. "
            "Give the Stable Diffusion that the checkpoint was trained on."
        )
    shapes = {}
    for name in names:
        inputs, outputs, *kernel = layer_sizes(layers[name]) or (0, 0)
        rank = ranks if isinstance(ranks, int) else ranks[name]
        shapes[name + A] = torch.Size([rank, inputs, *kernel])
        shapes[name + B] = torch.Size([outputs, rank, *[1] * len(kernel)])
    return shapes


def renamed(
    state_dict: Mapping[str, torch.Tensor], names: Mapping[str, str], host_shapes: Mapping[str, Any], source: PathLike
) -> dict[str, torch.Tensor]:
    """Give weights other names, after making sure that all of them, and nothing else, are there in their shapes.

    Args:
        names: official names by the new ones.
        host_shapes: shapes by the new names.
        source: what errors call the checkpoint.

    Raises:
        ValueError: if keys are missing, unexpected or mis-shaped, of which all are listed, or weights are not real.
    """
    check_keys(state_dict, {names[key]: shape for key, shape in host_shapes.items()}, source)
    check_real(state_dict, source)
    return {key: state_dict[names[key]] for key in host_shapes}


def check_disjoint(lists: Iterable[Iterable[str]], source: PathLike) -> None:
    """Raise ValueError if a module is in more than one list: in the official codes the LoRAs of both act on it."""
    counts = Counter(name for names in lists for name in set(names))
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise ValueError(f"{source} has modules in more than one list: {twice}. Only one LoRA of a set can be read.")


def with_adapter(key: str, adapter: str) -> str:
    """Put the name of PEFT's adapter into `<module>.lora_A.weight`, as a model's own state dict has it."""
    return f"{key.removesuffix('.weight')}.{adapter}.weight"


@torch.no_grad()
def merge(host: nn.Module, weights: Mapping[str, torch.Tensor], alpha: float) -> None:
    """Merge a LoRA into the weights of a model, in place: W + alpha / rank · B·A, computed in float64.

    For a convolution A has the kernel's size and B that of a pixel, so that B·A sums over the rank alone.
    """
    for key, down in weights.items():
        if not key.endswith(A):
            continue
        module = key.removesuffix(A)
        weight = host.get_submodule(module).weight
        assert isinstance(weight, torch.Tensor)
        change = weights[module + B].double().flatten(1) @ down.double().flatten(1)
        weight.copy_(weight.double() + alpha / len(down) * change.view_as(weight))
