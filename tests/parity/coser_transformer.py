"""A text transformer of CoSeR's UNet, with its all-in-attention, on weights in the official layout.

`x` `[B, C, h, w]`, the control features `lr` and `ref` (of references side by side), `prompt` and `cog`, with the
`heads` of a `config.json`, give `out`, and `out_gen_mode` without all-in-attention.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel

from diffusers_sr.attention.control_features import MIDDLE
from diffusers_sr.coser.adapter import CoSeRAdapter
from diffusers_sr.coser.convert_networks import adapter_state_dict
from tests.parity.arrays import Tensors

INPUTS = ("x", "lr", "ref", "prompt", "cog")
# The vectors are of a transformer by itself: it is put in the middle of a UNet of which nothing else is run.
OFFICIAL_SITE, SITE = "middle_block.1", "mid_block.attentions.0"


def fits(names: set[str], given: Tensors) -> bool:
    """Whether weights are of a transformer that reads these control features: of other channels by a convolution."""
    by_convolution = given["lr"].shape[1] != given["x"].shape[1]
    return "norm_clr_lna.weight" in names and ("dubconv_lna.weight" in names) == by_convolution


def transformer_outputs(state: Tensors, given: Tensors, config: dict[str, Any]) -> Tensors:
    channels, context_dim = len(state["proj_in.weight"]), state["transformer_blocks.0.attn2.to_k.weight"].shape[1]
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(channels,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            attention_head_dim=config["heads"],  # diffusers takes the number of heads by this name
            cross_attention_dim=context_dim,
            use_linear_projection=True,
        )
    transformer = unet.get_submodule(SITE)
    added = {name: tensor for name, tensor in state.items() if "_lna." in name}
    transformer.load_state_dict({name: tensor for name, tensor in state.items() if name not in added}, assign=True)
    site = {
        "channels": channels,
        "control_channels": given["lr"].shape[1],
        "num_attention_heads": config["heads"],
        "norm_num_groups": transformer.norm.num_groups,
        "control_index": MIDDLE,
    }
    adapter = CoSeRAdapter({f"{SITE}.transformer_blocks.0": site}, similarity="scaled")
    official = {f"{OFFICIAL_SITE}.{name}": tensor for name, tensor in added.items()}
    adapter.unet.load_state_dict(adapter_state_dict(official), assign=True)

    context = torch.cat([given["prompt"], given["cog"]], dim=1)
    call = {"hidden_states": given["x"], "encoder_hidden_states": context, "return_dict": False}
    adapter.eval().attach(unet.eval())
    (stock,) = transformer(**call)
    with adapter.conditioning(lr=[given["lr"]], reference=[given["ref"]]):
        (out,) = transformer(**call)
    return {"out": out, "out_gen_mode": stock}
