"""StableSR's fusion layer on weights in the official layout: what the CFW decoder adds at one level.

`enc_feat`, `dec_feat` `[B, C, H, W]` and `w` give `out`.
"""

from __future__ import annotations

from typing import Any

from diffusers_sr.coser.cfw import ControllableFeatureWrapping
from diffusers_sr.coser.convert_cfw import cfw_state_dict
from tests.parity.arrays import Tensors

INPUTS = ("enc_feat", "dec_feat", "w")
LEVEL = 1  # the vectors are of a layer by itself: any level will do


def fusion_outputs(state: Tensors, given: Tensors, config: dict[str, Any]) -> Tensors:
    official = {f"decoder.fusion_layer_{LEVEL}.{name}": tensor for name, tensor in state.items()}
    growth_channels, channels = state["encode_enc_2.0.rdb1.conv1.weight"].shape[:2]
    num_rrdbs = sum(name.endswith("rdb1.conv1.weight") for name in state)
    cfw = ControllableFeatureWrapping((LEVEL,), (channels,), num_rrdbs, growth_channels)
    cfw.load_state_dict(cfw_state_dict(official, cfw), assign=True)
    return {"out": cfw(LEVEL, given["enc_feat"], given["dec_feat"], float(given["w"]))}
