"""The official OMGSR-S folders of PEFT."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import nn

from ..conversion.checkpoints import PathLike, read_state_dict
from ..publishing.paper import Paper
from .convert_lora import Converted, lora_shapes, merge, renamed
from .convert_pickle import is_names, is_rank
from .lora import LoraSets, layer_sizes

_PREFIX = "base_model.model."
# What changes the meaning of the weights: other values than PEFT's own defaults would be silently wrong.
_PLAIN = {
    "alpha_pattern": {},
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_bias": False,
    "modules_to_save": None,
    "peft_type": "LORA",
    "use_dora": False,
    "use_rslora": False,
}


def read_omgsr(checkpoint: PathLike, unet: UNet2DConditionModel, vae: AutoencoderKL) -> Converted:
    """Read the folder with `unet_lora_adapter` and `vae_encoder_lora_adapter`, with the alpha that each names.

    The second one is merged into the VAE's encoder, for which diffusers has no adapters.

    Args:
        unet, vae: those of the base; the VAE's weights are changed in place.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a file is damaged or describes something else than a plain LoRA, or if keys are missing,
            unexpected or mis-shaped (all of them are listed).
    """
    unet_weights, alpha = read_peft_folder(Path(checkpoint) / "unet_lora_adapter", unet)
    encoder_weights, encoder_alpha = read_peft_folder(Path(checkpoint) / "vae_encoder_lora_adapter", vae.encoder)
    merge(vae.encoder, encoder_weights, encoder_alpha)
    return Converted(
        unet=unet,
        vae=vae,
        lora=LoraSets.from_state_dicts({"default": (unet_weights, alpha)}),
        prediction="x0",
        timestep=273,
        prompt_source="stored",
        paper=Paper("OMGSR", "2508.08227"),
        license="unknown",
        terms="the authors state no licence, for neither code nor weights: ask them before you share the weights",
        is_restricted=True,
        call_defaults={"tile_size": 512, "tile_overlap": 256},
    )


def read_peft_folder(folder: Path, host: nn.Module) -> tuple[dict[str, torch.Tensor], float]:
    """Read a folder of PEFT: the weights by `<module>.lora_{A,B}.weight`, and alpha.

    Args:
        host: the model that the adapter is for.

    Raises:
        FileNotFoundError, ValueError: see `read_omgsr`.
    """
    config = _read_config(folder / "adapter_config.json")
    modules = [
        name
        for name, layer in host.named_modules()
        if layer_sizes(layer) is not None and check_target_module_exists(config, name)
    ]
    ranks = {
        name: config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), name), config.r) for name in modules
    }
    shapes = lora_shapes(host, modules, ranks, folder)
    weights = read_state_dict(folder / "adapter_model.safetensors")
    return renamed(weights, {key: _PREFIX + key for key in shapes}, shapes, folder), config.lora_alpha


def _read_config(path: Path) -> LoraConfig:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: give the official folder, with configuration and weights.")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dictionary.")
    other = {name: content[name] for name, value in _PLAIN.items() if name in content and content[name] != value}
    needed = ("r", "lora_alpha", "target_modules")
    missing = [name for name in needed if name not in content]
    if other or missing:
        wrong = f"it has {other}" if other else f"it lacks {missing}"
        raise ValueError(f"{path} does not describe a plain LoRA with one alpha: {wrong}.")
    values = {**{name: content[name] for name in needed}, "rank_pattern": content.get("rank_pattern") or {}}
    for name, (kind, fits) in _KINDS.items():
        if not fits(values[name]):
            raise ValueError(f"{path} cannot be read: {name} is not {kind}, but {values[name]!r:.80}.")
    return LoraConfig(**values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_pattern(value: Any) -> bool:
    try:
        re.compile(value)
    except (TypeError, re.error):
        return False
    return True


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "r": ("a positive whole number", is_rank),
    "lora_alpha": ("a number", _is_number),
    "target_modules": (
        "a list of module names, or a regular expression",
        lambda value: is_names(value) or _is_pattern(value),
    ),
    "rank_pattern": (
        "a positive whole number by regular expression",
        lambda value: isinstance(value, dict) and all(_is_pattern(k) and is_rank(v) for k, v in value.items()),
    ),
}
