"""StableSR's fusion layer on weights in the official layout: what the CFW decoder adds at one level.

`cfw_fuse.npz` in the folder of weights holds them under `sd.<official name>` with the inputs `enc_feat`, `dec_feat`
`[B, C, H, W]` and `w`, and gives `out`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from diffusers_sr.coser.cfw import ControllableFeatureWrapping, cfw_state_dict
from tests.parity.arrays import read_arrays, read_state_dict

LEVEL = 1  # the vectors are of a layer by itself: any level will do


def forward(weights_dir: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    path = weights_dir / "cfw_fuse.npz"
    official = {f"decoder.fusion_layer_{LEVEL}.{name}": tensor for name, tensor in read_state_dict(path).items()}
    *features, weight = read_arrays(path, dtype, ["enc_feat", "dec_feat", "w"]).values()
    growth_channels, channels = official[f"decoder.fusion_layer_{LEVEL}.encode_enc_2.0.rdb1.conv1.weight"].shape[:2]
    num_rrdbs = sum(name.endswith("rdb1.conv1.weight") for name in official)
    cfw = ControllableFeatureWrapping((LEVEL,), (channels,), num_rrdbs, growth_channels)
    cfw.load_state_dict(cfw_state_dict(official, cfw))
    return {"out": cfw.to(dtype)(LEVEL, *features, float(weight))}
