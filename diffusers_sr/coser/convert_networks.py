"""Convert UNet and ControlNet of CoSeR's checkpoint: stock models, and the adapter with what is not stock in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint, convert_ldm_unet_checkpoint

from ..attention.sites import site_key
from ..conversion.checkpoints import PathLike, check_keys
from .adapter import CoSeRAdapter
from .controlnet import LatentControlNetModel

# What the official code adds to a text transformer, and to the first of its blocks, with the names here.
ADAPTER_NAMES = {
    "dubconv_lna": "conv_lr",
    "norm_clr_lna": "norm_lr",
    "proj_in_clr_lna": "proj_lr",
    "dubconv_r_lna": "conv_reference",
    "norm_cref_lna": "norm_reference",
    "transformer_blocks.0.attn4_ref_lna": "attn_reference",
    "transformer_blocks.0.zero_conv_r_lna": "out_reference",
    "transformer_blocks.0.norm4_lna": "norm_hidden",
    "transformer_blocks.0.attn3_lr_lna": "attn_lr",
    "transformer_blocks.0.zero_conv_lna": "out_lr",
}
# Weights that the official model has but never uses.
UNUSED = ("proj_in_cref_lna", "transformer_blocks.0.norm5_lna")

UNET_PREFIX = "model.diffusion_model."
# In every Stable Diffusion; a decoder's block has one more.
RESNETS_PER_DOWN_BLOCK = 2
RESNETS_PER_UP_BLOCK = RESNETS_PER_DOWN_BLOCK + 1
# Channels of an attention head of Stable Diffusion 2: the shapes do not show them.
HEAD_CHANNELS = 64


def networks_from_official(
    unet: Mapping[str, torch.Tensor],
    controlnet: Mapping[str, torch.Tensor],
    unet_config: Mapping[str, Any],
    controlnet_config: Mapping[str, Any],
    source: PathLike,
) -> tuple[UNet2DConditionModel, LatentControlNetModel, CoSeRAdapter]:
    """Build the models from two state dicts in the official layout.

    Args:
        unet: what the checkpoint has under "model.diffusion_model.", without this prefix.
        controlnet: what it has under "structcond_stage_model.", without this prefix.
        unet_config, controlnet_config: those of the diffusers models; `unet_config_of` and `controlnet_config_of` read
            those of Stable Diffusion 2's kind.
        source: what errors call the checkpoint.

    Returns:
        UNet, ControlNet and adapter in evaluation mode, in the weights' type; the adapter, with the similarity
        ("scaled") and the bicubic filter ("torch") that the released weights need, is not attached.

    Raises:
        ValueError: if keys are missing, unexpected or mis-shaped; all of a model's are listed.
    """
    stock, added = split_unet(unet)
    unet_model = unet_from_official(stock, unet_config, source)
    return unet_model, *conditioning_from_official(added, controlnet, unet_config, controlnet_config, source)


def split_unet(unet: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Split the official UNet into Stable Diffusion's and what CoSeR adds and trains, which has "_lna" in its name."""
    stock = {key: tensor for key, tensor in unet.items() if "_lna." not in key}
    return stock, {key: tensor for key, tensor in unet.items() if key not in stock}


def unet_from_official(
    stock: Mapping[str, torch.Tensor], config: Mapping[str, Any], source: PathLike
) -> UNet2DConditionModel:
    """Build the stock UNet; arguments and errors are those of `networks_from_official`."""
    with init_empty_weights(include_buffers=False):
        unet = UNet2DConditionModel.from_config(config)
    # diffusers' converter expects the prefix of a whole checkpoint.
    converted = convert_ldm_unet_checkpoint({UNET_PREFIX + key: tensor for key, tensor in stock.items()}, unet.config)
    _check(unet, converted, stock, f"the UNet of {source}")
    unet.load_state_dict(converted, assign=True)
    return unet.eval()


def conditioning_from_official(
    added: Mapping[str, torch.Tensor],
    controlnet: Mapping[str, torch.Tensor],
    unet_config: Mapping[str, Any],
    controlnet_config: Mapping[str, Any],
    source: PathLike,
) -> tuple[LatentControlNetModel, CoSeRAdapter]:
    """Build ControlNet and adapter for a UNet, whose configuration is enough.

    Args:
        added: the second of what `split_unet` returns.

    The other arguments, and errors, are those of `networks_from_official`.
    """
    with init_empty_weights(include_buffers=False):
        controlnet_model = LatentControlNetModel.from_config(controlnet_config)
        unet = UNet2DConditionModel.from_config(unet_config)
        adapter = CoSeRAdapter.from_hosts(unet, controlnet_model, similarity="scaled", bicubic="torch")
    state = adapter_state_dict(added)
    check_keys(state, _shapes(adapter.unet), f"the attention of {source}")
    adapter.unet.load_state_dict(state, assign=True)

    converted = convert_controlnet_checkpoint(dict(controlnet), controlnet_model.config)
    for name in ("weight", "bias"):  # an image's ControlNet has several convolutions here
        converted[f"controlnet_cond_embedding.{name}"] = controlnet.get(f"hint_zero_conv.{name}")
    _check(controlnet_model, converted, controlnet, f"the ControlNet of {source}")
    controlnet_model.load_state_dict(converted, assign=True)
    return controlnet_model.eval(), adapter.eval()


def unet_config_of(unet: Mapping[str, torch.Tensor], source: PathLike) -> dict[str, Any]:
    """Read the configuration of an official stock UNet from its shapes.

    Raises:
        ValueError: if a tensor that it is read from is missing.
    """
    config = _config_of(unet, f"the UNet of {source}")
    up_block_types = [block.replace("Down", "Up") for block in reversed(config["down_block_types"])]
    return {**config, "up_block_types": up_block_types, "sample_size": 64}


def controlnet_config_of(controlnet: Mapping[str, torch.Tensor], source: PathLike) -> dict[str, Any]:
    """Read the configuration of an official ControlNet from its shapes.

    The released one has no text transformer at its second level, where the UNet has two.

    Raises:
        ValueError: if a tensor that it is read from is missing.
    """
    return {**_config_of(controlnet, f"the ControlNet of {source}"), "conditioning_channels": 4}


def adapter_state_dict(official: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Make the state dict of `CoSeRAdapter.unet` from what the official UNet has besides Stable Diffusion's weights.

    A key of an unknown name is kept as it is. 1×1 convolutions, which are linear, become matrices.
    """
    state = {}
    for key, tensor in official.items():
        match = re.fullmatch(r"(middle_block\.1|output_blocks\.(\d+)\.1)\.(.*?_lna)\.(.*)", key)
        if match is None or match[3] not in (*ADAPTER_NAMES, *UNUSED):
            state[key] = tensor
        elif match[3] in ADAPTER_NAMES:
            number = None if match[2] is None else divmod(int(match[2]), RESNETS_PER_UP_BLOCK)
            site = "mid_block.attentions.0" if number is None else "up_blocks.{}.attentions.{}".format(*number)
            site = site_key(f"{site}.transformer_blocks.0")
            is_matrix = tensor.ndim == 4 and tensor.shape[-2:] == (1, 1)
            state[f"{site}.{ADAPTER_NAMES[match[3]]}.{match[4]}"] = tensor.flatten(1) if is_matrix else tensor
    return state


def _config_of(official: Mapping[str, torch.Tensor], source: str) -> dict[str, Any]:
    """Read what the configurations of a UNet and of a ControlNet have in common."""
    blocks = {int(match[1]) for key in official if (match := re.match(r"input_blocks\.(\d+)\.", key))}
    # The first of each level's residual blocks; the others follow, and then a downsampling.
    levels = range(1, max(blocks, default=1) + 1, RESNETS_PER_DOWN_BLOCK + 1)
    text_key, proj_in, *convs = needed = [
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        "middle_block.1.proj_in.weight",
        *(f"input_blocks.{level}.0.out_layers.3.weight" for level in levels),
    ]
    if missing := [key for key in needed if key not in official]:
        lines = "\n  ".join(missing)
        raise ValueError(f"The keys of {source} are not those of its architecture, missing:\n  {lines}")
    channels = [len(official[conv]) for conv in convs]
    attends = [any(key.startswith(f"input_blocks.{level}.1.") for key in official) for level in levels]
    return {
        "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
        "layers_per_block": RESNETS_PER_DOWN_BLOCK,
        "attention_head_dim": [width // HEAD_CHANNELS for width in channels],  # diffusers means the number of heads
        "cross_attention_dim": official[text_key].shape[1],
        "use_linear_projection": official[proj_in].ndim == 2,
    }


def _check(
    model: torch.nn.Module,
    converted: dict[str, torch.Tensor | None],
    official: Mapping[str, torch.Tensor],
    source: str,
) -> None:
    """Call `check_keys`; what diffusers' converters pass over is unexpected, and what they give as None is missing."""
    given = {key: tensor for key, tensor in converted.items() if tensor is not None}
    used = {id(tensor) for tensor in given.values()}
    passed_over = {key: tensor for key, tensor in official.items() if id(tensor) not in used}
    check_keys({**given, **passed_over}, _shapes(model), source)


def _shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in model.state_dict().items()}
