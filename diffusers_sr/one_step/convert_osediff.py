"""The official OSEDiff checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ..conversion.checkpoints import PathLike, check_keys, check_real
from ..publishing.paper import Paper
from .convert_lora import (
    DEFAULT_ALPHA,
    Converted,
    check_disjoint,
    lora_shapes,
    merge,
    renamed,
    with_adapter,
)
from .convert_pickle import read_official_pickle
from .convert_pisa import PARTS
from .lora import LoraSets

_CONV_IN = ("conv_in.weight", "conv_in.bias")


def read_osediff(checkpoint: PathLike, unet: UNet2DConditionModel, vae: AutoencoderKL) -> Converted:
    """Read `osediff.pkl`: a LoRA of three adapters in PEFT with alpha 8, a trained `conv_in`, and a LoRA of the VAE.

    `conv_in` has both new weights, which replace the base's, and a LoRA like every other layer. The LoRA of the VAE's
    encoder and `quant_conv` is merged into the VAE, for which diffusers has no adapters.

    Args:
        checkpoint: `osediff.pkl` or `osediff_face.pkl`.
        unet, vae: those of the base, whose weights are changed in place.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or of another layout, if keys are missing, unexpected or mis-shaped (all of them
            are listed), or if the base has no such layers.
    """
    lists = [f"unet_lora_{part}_modules" for part in PARTS]
    content = read_official_pickle(
        checkpoint,
        [*lists, "vae_lora_encoder_modules"],
        ["rank_unet", "rank_vae"],
        ["state_dict_unet", "state_dict_vae"],
    )
    state_dict: Mapping[str, torch.Tensor] = content["state_dict_unet"]
    check_disjoint([content[name] for name in lists], checkpoint)
    names, shapes = {}, {}
    for part, modules in zip(PARTS, lists, strict=True):
        for key, shape in lora_shapes(unet, content[modules], content["rank_unet"], checkpoint).items():
            names[key], shapes[key] = with_adapter(key, f"default_{part}"), shape
    own = {key: key.replace("conv_in.", "conv_in.base_layer.") for key in _CONV_IN}
    stock = unet.state_dict()
    check_keys(
        state_dict,
        {names[key]: shape for key, shape in shapes.items()} | {own[key]: stock[key].shape for key in _CONV_IN},
        f"`state_dict_unet` of {checkpoint}",
    )
    check_real(state_dict, f"`state_dict_unet` of {checkpoint}")
    vae_shapes = lora_shapes(vae, content["vae_lora_encoder_modules"], content["rank_vae"], checkpoint)
    vae_weights = renamed(
        content["state_dict_vae"],
        {key: with_adapter(key, "default_encoder") for key in vae_shapes},
        vae_shapes,
        f"`state_dict_vae` of {checkpoint}",
    )
    merge(vae, vae_weights, DEFAULT_ALPHA)
    unet.load_state_dict({key: state_dict[own[key]] for key in _CONV_IN}, strict=False)
    weights = {key: state_dict[name] for key, name in names.items()}
    return Converted(
        unet=unet,
        vae=vae,
        lora=LoraSets.from_state_dicts({"default": (weights, DEFAULT_ALPHA)}),
        prediction="x0",
        timestep=999,
        prompt_source="tags",
        paper=Paper("OSEDiff", "2406.08177"),
        license="apache-2.0",
        terms="published in the repository of the code, under its licence",
    )
