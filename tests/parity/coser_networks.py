"""CoSeR's networks on weights in the official layout.

`unet_state_dict.npz`, `controlnet_state_dict.npz` and `config.json` (the official constructors' arguments) in
WEIGHTS_DIR, with `x`, `lr`, `ref`, `timesteps`, `prompt_emb`, `cog_emb` and `neg_emb`, give `ctrl_lr_00…`,
`ctrl_ref_00…`, `eps_cond`, `eps_uncond`, `gen_cond` and `gen_uncond`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from diffusers_sr.attention.control_features import control_features
from diffusers_sr.coser.convert_networks import networks_from_official
from tests.parity.arrays import Tensors, read_arrays

INPUTS = ("x", "lr", "ref", "timesteps", "prompt_emb", "cog_emb", "neg_emb")


def network_outputs(weights: Path, given: Tensors, dtype: torch.dtype) -> Tensors:
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    unet, controlnet, adapter = networks_from_official(
        read_arrays(weights / "unet_state_dict.npz", dtype),
        read_arrays(weights / "controlnet_state_dict.npz", dtype),
        {**diffusers_config(config["unet"]), "up_block_types": block_types(config["unet"], "UpBlock2D")[::-1]},
        {**diffusers_config(config["controlnet"]), "conditioning_channels": config["unet"]["in_channels"]},
        str(weights),
    )
    x, timesteps = given["x"], given["timesteps"]
    context = torch.cat([given["prompt_emb"], given["cog_emb"]], dim=1)
    lr, reference = (control_features(controlnet, x, timesteps, context, given[name]) for name in ("lr", "ref"))
    adapter.attach(unet)
    outputs = {
        f"ctrl_{name}_{index:02d}": feature
        for name, features in (("lr", lr), ("ref", reference))
        for index, feature in enumerate(features)
    }
    for name, text in (("cond", context), ("uncond", given["neg_emb"])):
        outputs[f"gen_{name}"] = unet(x, timesteps, text, return_dict=False)[0]
        with adapter.conditioning(lr=lr, reference=reference):
            outputs[f"eps_{name}"] = unet(x, timesteps, text, return_dict=False)[0]
    return outputs


def diffusers_config(official: dict[str, Any]) -> dict[str, Any]:
    """Make the common part of both networks' diffusers configurations from the official constructor's arguments."""
    channels = [official["model_channels"] * factor for factor in official["channel_mult"]]
    return {
        "in_channels": official["in_channels"],
        "block_out_channels": channels,
        "down_block_types": block_types(official, "DownBlock2D"),
        "layers_per_block": official["num_res_blocks"],
        "attention_head_dim": [width // official["num_head_channels"] for width in channels],
        "cross_attention_dim": official["context_dim"],
        "use_linear_projection": official["use_linear_in_transformer"],
    }


def block_types(official: dict[str, Any], kind: str) -> list[str]:
    """The blocks of the encoder's levels: with attention where the official list has their factor."""
    levels = range(len(official["channel_mult"]))
    return [f"CrossAttn{kind}" if 2**level in official["attention_resolutions"] else kind for level in levels]
