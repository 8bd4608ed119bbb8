"""Take CFW's weights, which CoSeR uses, out of StableSR's autoencoder."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from accelerate import init_empty_weights

from ..conversion.checkpoints import check_keys
from .cfw import ControllableFeatureWrapping

_OFFICIAL = re.compile(r"(?P<prefix>|.*\.)decoder\.fusion_layer_\d+\.")
_RENAMED = (
    ("fusion_layers.", "decoder.fusion_layer_"),
    (".resnet_in.", ".encode_enc_1."),
    (".rrdbs.", ".encode_enc_2."),
    (".resnet_out.", ".encode_enc_3."),
    (".conv_shortcut.", ".conv_out."),
)


def cfw_state_dict(
    official: Mapping[str, torch.Tensor], cfw: ControllableFeatureWrapping | None = None
) -> dict[str, torch.Tensor]:
    """Take the weights of `ControllableFeatureWrapping` out of StableSR's autoencoder (`vqgan_cfw_00011.ckpt`).

    Its own encoder and decoder are those of Stable Diffusion and are not looked at. The fusion layer of level `l` is
    its `decoder.fusion_layer_l`.

    Args:
        official: the content of the file, under its `state_dict`. The keys may all have one prefix, such as
            "first_stage_model.".
        cfw: the model the weights are for. By default, one of StableSR's shape.

    Raises:
        ValueError: if keys of fusion layers are missing, unexpected or mis-shaped; all of them are listed.
    """
    if cfw is None:
        with init_empty_weights():
            cfw = ControllableFeatureWrapping()
    found = {key: match["prefix"] for key in official if (match := _OFFICIAL.match(key))}
    prefix = min(found.values(), default="")
    names = {key: prefix + _official_key(key) for key in cfw.state_dict()}
    check_keys(
        {key: official[key] for key in found},
        {names[key]: tensor.shape for key, tensor in cfw.state_dict().items()},
        "the fusion layers",
    )
    return {key: official[name] for key, name in names.items()}


def _official_key(key: str) -> str:
    for own, official in _RENAMED:
        key = key.replace(own, official)
    return key
