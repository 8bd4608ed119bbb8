"""StableSR's fusion layer on weights in the official layout: what the CFW decoder adds at one level.

`cfw_fuse.npz` in the folder of weights holds them under `sd.<official name>` with the inputs `enc_feat`, `dec_feat`
`[B, C, H, W]` and `w`, and gives `out`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from diffusers_sr.coser.cfw import ControllableFeatureWrapping, cfw_state_dict

LEVEL = 1  # the vectors are of a layer by itself: any level will do


def forward(weights_dir: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    with np.load(weights_dir / "cfw_fuse.npz") as vectors:
        official = {
            f"decoder.fusion_layer_{LEVEL}.{name.removeprefix('sd.')}": torch.from_numpy(vectors[name])
            for name in vectors
            if name.startswith("sd.")
        }
        encoder_features, decoder_features, weight = (vectors[name] for name in ("enc_feat", "dec_feat", "w"))
    growth_channels, channels = official[f"decoder.fusion_layer_{LEVEL}.encode_enc_2.0.rdb1.conv1.weight"].shape[:2]
    num_rrdbs = sum(name.endswith("rdb1.conv1.weight") for name in official)
    cfw = ControllableFeatureWrapping((LEVEL,), (channels,), num_rrdbs, growth_channels)
    cfw.load_state_dict(cfw_state_dict(official, cfw))
    features = (torch.from_numpy(array).to(dtype) for array in (encoder_features, decoder_features))
    return {"out": cfw.to(dtype)(LEVEL, *features, float(weight))}
