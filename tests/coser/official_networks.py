"""CoSeR's networks at a tiny size, and their weights under the official names."""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from diffusers_sr.coser.adapter import AllInAttention, CoSeRAdapter
from diffusers_sr.coser.controlnet import LatentControlNetModel
from diffusers_sr.coser.convert_networks import ADAPTER_NAMES
from tests.components import TEXT_DIM

Tensors = dict[str, torch.Tensor]

# Stable Diffusion's names, ours to the official ones.
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OTHERS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "controlnet_cond_embedding": "hint_zero_conv",
    "controlnet_mid_block": "middle_block_out.0",
}


def ldm_key(key: str, model: UNet2DConditionModel | LatentControlNetModel) -> str:
    """The official name of a weight of a stock UNet or ControlNet with two residual blocks to a level."""
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|\w+samplers)\.(\d+)\.(.+)", key):
        direction, block, part, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if part == "downsamplers":
            return f"input_blocks.{3 * block + 3}.0.{rest.replace('conv', 'op')}"
        if part == "upsamplers":
            column = 2 if hasattr(model.up_blocks[block], "attentions") else 1
            return f"output_blocks.{3 * block + 2}.{column}.{rest}"
        row = f"input_blocks.{3 * block + layer + 1}" if direction == "down" else f"output_blocks.{3 * block + layer}"
        key = f"{row}.{int(part == 'attentions')}.{rest}"
    key = re.sub(r"^controlnet_down_blocks\.(\d+)", r"zero_convs.\1.0", key)
    for name, official in OTHERS.items():
        if key.startswith(f"{name}."):
            key = official + key.removeprefix(name)
    if "transformer_blocks" not in key:
        for name, official in RESNET.items():
            key = re.sub(rf"^((?:input|output|middle)_blocks?\.[\d.]+)\.{name}\.", rf"\1.{official}.", key)
    return key


def official_adapter(adapter: CoSeRAdapter) -> Tensors:
    """Make the weights that the official UNet has besides Stable Diffusion's, with the weights it never uses."""
    names = {own: official for official, own in ADAPTER_NAMES.items()}
    weights = {}
    for site, attention in adapter.unet.items():
        assert isinstance(attention, AllInAttention)
        match = re.fullmatch(r"up_blocks__(\d+)__attentions__(\d+)__transformer_blocks__0", site)
        block = "middle_block.1" if match is None else f"output_blocks.{3 * int(match[1]) + int(match[2])}.1"
        for key, tensor in attention.state_dict().items():
            name, _, rest = key.partition(".")
            if key in ("out_lr.weight", "out_reference.weight"):
                tensor = tensor[:, :, None, None]
            weights[f"{block}.{names[name]}.{rest}"] = tensor
        channels = attention.norm_lr.num_channels
        for name, shape in (("proj_in_cref_lna", (channels, channels)), ("transformer_blocks.0.norm5_lna", ())):
            weights[f"{block}.{name}.weight"] = torch.zeros(shape or (channels,))
            weights[f"{block}.{name}.bias"] = torch.zeros(channels)
    return weights


def official_networks(
    unet: UNet2DConditionModel, controlnet: LatentControlNetModel, adapter: CoSeRAdapter
) -> tuple[Tensors, Tensors]:
    """UNet and ControlNet in the official layout, without the prefixes."""
    unet_weights, controlnet_weights = (
        {ldm_key(key, model): tensor for key, tensor in model.state_dict().items()} for model in (unet, controlnet)
    )
    return {**unet_weights, **official_adapter(adapter)}, controlnet_weights


def random_weights(module: Any) -> Any:
    """Give every parameter values of its own, so that none can be taken for another of its shape."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.1)
    return module.eval()


def tiny_networks() -> tuple[UNet2DConditionModel, LatentControlNetModel, CoSeRAdapter]:
    """As the official ones, whose heads have 64 channels and whose norms 32 groups, with two levels."""
    config = {
        "block_out_channels": (64, 128),
        "layers_per_block": 2,
        "attention_head_dim": (1, 2),
        "cross_attention_dim": TEXT_DIM,
        "use_linear_projection": True,
    }
    unet = UNet2DConditionModel(
        **config,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        sample_size=64,
    )
    down_block_types = ("CrossAttnDownBlock2D", "DownBlock2D")
    controlnet = LatentControlNetModel(**config, down_block_types=down_block_types, conditioning_channels=4)
    adapter = CoSeRAdapter.from_hosts(unet, controlnet, similarity="scaled", bicubic="torch")
    return random_weights(unet), random_weights(controlnet), random_weights(adapter)
