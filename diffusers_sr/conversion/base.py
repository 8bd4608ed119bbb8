"""The Stable Diffusion a checkpoint was trained on: its frozen parts, and whether its UNet is the checkpoint's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ..pretrained.files import ModelFolderError
from ..pretrained.loading import load_pretrained
from .checkpoints import PathLike

STABLE_DIFFUSION_2_LICENSE = "openrail++"
"""The licence of Stable Diffusion 2 and 2.1, by the Hub's identifiers."""

logger = logging.getLogger(__name__)

_KINDS = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
    "scheduler": DDPMScheduler,
}
_SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


def load_base(base: PathLike, cross_attention_dim: int | None, mirror: str) -> dict[str, Any]:
    """Load UNet, VAE, text encoder, tokenizer and scheduler of a Stable Diffusion.

    Args:
        base: folder or Hub id.
        cross_attention_dim: channels of the text embeddings that the checkpoint was trained with; None if that is not
            known yet.
        mirror: Hub id that errors suggest.

    Raises:
        OSError: if the base cannot be loaded.
        ModelFolderError: if its folder is damaged.
        ValueError: if its text encoder has another number of channels.
    """
    try:
        components = {name: load_pretrained(kind, base, name) for name, kind in _KINDS.items()}
    except ModelFolderError:
        raise
    except OSError as error:
        raise OSError(
            f"The base '{base}' could not be loaded. The repositories that Stable Diffusion was first published in "
            f"were removed from the Hub; {mirror!r} is a mirror, and a folder with the same files works too. ({error})"
        ) from error
    if cross_attention_dim is not None:
        check_text_encoder(components["text_encoder"], cross_attention_dim, base)
    return components


def check_text_encoder(text_encoder: CLIPTextModel, cross_attention_dim: int, base: PathLike) -> None:
    """Raise ValueError if the text encoder of a base does not have the channels that a checkpoint's UNet expects."""
    width = text_encoder.config.hidden_size
    if width != cross_attention_dim:
        raise ValueError(
            f"The text encoder of '{base}' has {width} channels, but the checkpoint's UNet expects "
            f"{cross_attention_dim}: this is not the base it was trained on."
        )


def noise_schedule(scheduler: DDPMScheduler) -> dict[str, Any]:
    """Give the `schedule_arguments` of a base that was trained to predict noise.

    Raises:
        ValueError: if the base was not trained to predict noise.
    """
    if (kind := scheduler.config.prediction_type) != "epsilon":
        raise ValueError(
            f"The base was trained to predict {kind!r}, but the checkpoint needs one that predicts noise."
        )
    return schedule_arguments(scheduler)


def schedule_arguments(scheduler: Any) -> dict[str, Any]:
    """Give the arguments of a base's noise schedule, for a scheduler that takes those of `DDPMScheduler`."""
    return {name: scheduler.config[name] for name in _SCHEDULE if name in scheduler.config}


def base_unet_if_equal(
    unet: UNet2DConditionModel, base_unet: UNet2DConditionModel, base: PathLike
) -> UNet2DConditionModel:
    """Give the base's UNet if it equals the checkpoint's; if not, the checkpoint's, and log the keys that differ.

    Args:
        unet: the checkpoint's UNet.
        base_unet: the base's UNet.
        base: what the log calls the base.
    """
    different = differing_keys(unet.state_dict(), base_unet.state_dict())
    if not different:
        logger.info("The checkpoint's UNet equals that of %s, which is used.", base)
        return base_unet
    shown = ", ".join(different[:5]) + (", …" if len(different) > 5 else "")
    logger.warning(
        "The checkpoint's UNet differs from that of %s, and is kept: %d of its %d tensors differ (%s).",
        base,
        len(different),
        len(unet.state_dict()),
        shown,
    )
    return unet


def differing_keys(state_dict: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]) -> list[str]:
    """List the keys that only one of two state dicts has, or whose tensors differ in the first one's dtype."""
    return [
        key
        for key in sorted(state_dict.keys() | base.keys())
        if key not in base
        or key not in state_dict
        or not torch.equal(state_dict[key], base[key].to(state_dict[key].dtype))
    ]
