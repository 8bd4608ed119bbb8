"""The UNet and the ControlNet of CoSeR's checkpoint: stock models, and the adapter with what is not stock in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint, convert_ldm_unet_checkpoint

from ..adapter import site_key
from ..checkpoints import check_keys
from .adapter import CoSeRAdapter
from .controlnet import LatentControlNetModel

# What the official code adds to a text transformer, and to the first of its blocks: the names here.
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
# Weights the official model has and never uses.
UNUSED = ("proj_in_cref_lna", "transformer_blocks.0.norm5_lna")

UNET_PREFIX = "model.diffusion_model."
RESNETS_PER_UP_BLOCK = 3  # of every Stable Diffusion


def networks_from_official(
    unet: Mapping[str, torch.Tensor],
    controlnet: Mapping[str, torch.Tensor],
    unet_config: Mapping[str, Any],
    controlnet_config: Mapping[str, Any],
    source: str,
) -> tuple[UNet2DConditionModel, LatentControlNetModel, CoSeRAdapter]:
    """Build the models of two state dicts in the official layout.

    Args:
        unet: what the checkpoint has under "model.diffusion_model.", without this prefix.
        controlnet: what it has under "structcond_stage_model.", without this prefix.
        unet_config, controlnet_config: of the diffusers models.
        source: what errors call the checkpoint.

    Returns:
        UNet, ControlNet and adapter in evaluation mode, in the weights' type; the adapter, which compares as the
        released weights need it ("scaled"), is not attached.

    Raises:
        ValueError: if keys are missing, unexpected or mis-shaped; all are listed.
    """
    with init_empty_weights(include_buffers=False):
        unet_model = UNet2DConditionModel.from_config(unet_config)
        controlnet_model = LatentControlNetModel.from_config(controlnet_config)
        adapter = CoSeRAdapter.from_hosts(unet_model, controlnet_model, similarity="scaled")
    stock = {key: tensor for key, tensor in unet.items() if "_lna." not in key}
    added = adapter_state_dict({key: tensor for key, tensor in unet.items() if key not in stock})
    # diffusers' converter wants the prefix of a whole checkpoint.
    converted = convert_ldm_unet_checkpoint(
        {UNET_PREFIX + key: tensor for key, tensor in stock.items()}, unet_model.config
    )
    _check(unet_model, converted, stock, f"the UNet of {source}")
    check_keys(added, _shapes(adapter.unet), f"the attention of {source}")
    unet_model.load_state_dict(converted, assign=True)
    adapter.unet.load_state_dict(added, assign=True)

    converted = convert_controlnet_checkpoint(dict(controlnet), controlnet_model.config)
    for name in ("weight", "bias"):  # an image's ControlNet has several convolutions here
        converted[f"controlnet_cond_embedding.{name}"] = controlnet.get(f"hint_zero_conv.{name}")
    _check(controlnet_model, converted, controlnet, f"the ControlNet of {source}")
    controlnet_model.load_state_dict(converted, assign=True)
    return unet_model.eval(), controlnet_model.eval(), adapter.eval()


def adapter_state_dict(official: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of `CoSeRAdapter.unet` from what the official UNet has beside Stable Diffusion's weights.

    A key of an unknown name is kept as it is. Convolutions of one pixel, which are linear, become matrices.
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


def _check(
    model: torch.nn.Module,
    converted: dict[str, torch.Tensor | None],
    official: Mapping[str, torch.Tensor],
    source: str,
) -> None:
    """As `check_keys`; what diffusers' converters pass over is unexpected, and what they give as None is missing."""
    given = {key: tensor for key, tensor in converted.items() if tensor is not None}
    used = {id(tensor) for tensor in given.values()}
    passed_over = {key: tensor for key, tensor in official.items() if id(tensor) not in used}
    check_keys({**given, **passed_over}, _shapes(model), source)


def _shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in model.state_dict().items()}
