"""The official PiSA-SR checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ..conversion.checkpoints import PathLike, check_keys, check_real
from ..publishing.paper import Paper
from .convert_lora import DEFAULT_ALPHA, Converted, check_disjoint, lora_shapes, with_adapter
from .convert_pickle import read_official_pickle
from .lora import LoraSets
from .prediction import PIXEL, SEMANTIC

PARTS = ("encoder", "decoder", "others")
_SETS = {"pix": PIXEL, "sem": SEMANTIC}


def read_pisa(checkpoint: PathLike, unet: UNet2DConditionModel, vae: AutoencoderKL) -> Converted:
    """Read `pisa_sr.pkl`: two LoRA sets, each of three adapters in PEFT, with alpha 8. UNet and VAE stay the base's.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or of another layout, if keys are missing, unexpected or mis-shaped (all of them
            are listed), or if the base has no such layers.
    """
    lists = [f"unet_lora_{part}_modules_{short}" for short in _SETS for part in PARTS]
    content = read_official_pickle(
        checkpoint, lists, [f"lora_rank_unet_{short}" for short in _SETS], ["state_dict_unet"]
    )
    state_dict: Mapping[str, torch.Tensor] = content["state_dict_unet"]
    official: dict[str, dict[str, str]] = {short: {} for short in _SETS}
    expected: dict[str, torch.Size] = {}
    for short, names in official.items():
        check_disjoint([content[f"unet_lora_{part}_modules_{short}"] for part in PARTS], checkpoint)
        for part in PARTS:
            modules: Any = content[f"unet_lora_{part}_modules_{short}"]
            for key, shape in lora_shapes(unet, modules, content[f"lora_rank_unet_{short}"], checkpoint).items():
                names[key] = with_adapter(key, f"default_{part}_{short}")
                expected[names[key]] = shape
    check_keys(state_dict, expected, checkpoint)
    check_real(state_dict, checkpoint)
    sets = {
        _SETS[short]: ({key: state_dict[name] for key, name in names.items()}, DEFAULT_ALPHA)
        for short, names in official.items()
    }
    return Converted(
        unet=unet,
        vae=vae,
        lora=LoraSets.from_state_dicts(sets),
        prediction="residual",
        timestep=1,
        prompt_source="stored",
        paper=Paper("PiSA-SR", "2412.03017"),
        license="unknown",
        terms="the authors state none for the weights; the README of their code says Apache-2.0",
    )
