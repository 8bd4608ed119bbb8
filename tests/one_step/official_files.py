"""Official one-step checkpoints at a tiny size: random LoRA weights for a base, in each layout."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from diffusers_sr.one_step.lora import layer_sizes

# The ends of the names of what the official codes adapt, but for `conv_in`, which HYPIR leaves out.
ENDS = (
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    *("conv", "conv1", "conv2", "conv_shortcut", "conv_out"),
)
Weights = dict[str, torch.Tensor]


def adapted(model: nn.Module, ends: Iterable[str] = (*ENDS, "conv_in")) -> list[str]:
    """The layers of a model whose names end in one of `ends`."""
    return [
        name
        for name, layer in model.named_modules()
        if layer_sizes(layer) and any(name == end or name.endswith(f".{end}") for end in ends)
    ]


def lora(model: nn.Module, names: Iterable[str], rank: int, adapter: str = "") -> Weights:
    """LoRA weights of layers, with the name of PEFT's adapter in theirs."""
    weights = {}
    ending = f".{adapter}.weight" if adapter else ".weight"
    for name in names:
        sizes = layer_sizes(model.get_submodule(name))
        assert sizes is not None
        inputs, outputs, *kernel = sizes
        weights[f"{name}.lora_A{ending}"] = 0.3 * torch.randn(rank, inputs, *kernel)
        weights[f"{name}.lora_B{ending}"] = 0.3 * torch.randn(outputs, rank, *[1] * len(kernel))
    return weights


def parts(unet: nn.Module) -> dict[str, list[str]]:
    """The three lists of the UNet's layers."""
    names = adapted(unet)
    encoder = [name for name in names if name.startswith(("down_blocks", "conv_in"))]
    decoder = [name for name in names if name.startswith(("up_blocks", "conv_out"))]
    return {"encoder": encoder, "decoder": decoder, "others": [n for n in names if n not in (*encoder, *decoder)]}


def pisa(unet: nn.Module, ranks: tuple[int, int] = (4, 2)) -> dict[str, Any]:
    content: dict[str, Any] = {"state_dict_unet": {}}
    for short, rank in zip(("pix", "sem"), ranks, strict=True):
        content[f"lora_rank_unet_{short}"] = rank
        for part, names in parts(unet).items():
            content[f"unet_lora_{part}_modules_{short}"] = names
            content["state_dict_unet"] |= lora(unet, names, rank, f"default_{part}_{short}")
    return content


def osediff(unet: nn.Module, vae: nn.Module, ranks: tuple[int, int] = (4, 2)) -> dict[str, Any]:
    content: dict[str, Any] = {"rank_unet": ranks[0], "rank_vae": ranks[1], "state_dict_unet": {}}
    for part, names in parts(unet).items():
        content[f"unet_lora_{part}_modules"] = names
        content["state_dict_unet"] |= lora(unet, names, ranks[0], f"default_{part}")
    for name in ("weight", "bias"):
        stock = unet.get_submodule("conv_in").get_parameter(name)
        content["state_dict_unet"][f"conv_in.base_layer.{name}"] = torch.randn_like(stock)
    names = [name for name in adapted(vae) if name.startswith("encoder.")]
    # The official loop has no end for what it has found: names are repeated, and `quant_conv` for every pattern.
    content["vae_lora_encoder_modules"] = [*names, *names[:3], "quant_conv", "quant_conv", "quant_conv"]
    content["state_dict_vae"] = lora(vae, [*names, "quant_conv"], ranks[1], "default_encoder")
    return content


def hypir(unet: nn.Module, rank: int = 3) -> Weights:
    return lora(unet, adapted(unet, ENDS), rank, "default")


def write_peft(folder: Path, model: nn.Module, rank: int, **config: Any) -> Weights:
    """Write a folder of PEFT, and give its weights by their names without PEFT's prefix."""
    ends = [*(end for end in ENDS if end.startswith(("to_", "conv"))), "conv_in"]
    weights = lora(model, adapted(model, ends), rank)
    folder.mkdir(parents=True)
    save_file(
        {f"base_model.model.{key}": tensor for key, tensor in weights.items()}, folder / "adapter_model.safetensors"
    )
    config = {
        **{"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ends, "rank_pattern": {}},
        **{"alpha_pattern": {}, "bias": "none", "use_dora": False, "use_rslora": False, "lora_dropout": 0.0},
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return weights


def write_omgsr(folder: Path, unet: nn.Module, vae: Any, ranks: tuple[int, int] = (4, 2)) -> tuple[Weights, Weights]:
    return (
        write_peft(folder / "unet_lora_adapter", unet, ranks[0]),
        write_peft(folder / "vae_encoder_lora_adapter", vae.encoder, ranks[1]),
    )


def by_hand(layer: Any, down: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    """A layer's weight with a LoRA merged into it, summed over the rank term by term."""
    change = torch.zeros_like(layer.weight)
    for index in range(len(down)):
        change += up[:, index].reshape(-1, *[1] * (down.ndim - 1)) * down[index][None]
    return layer.weight + scale * change
