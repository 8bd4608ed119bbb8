"""Convert official XPSR and PASD checkpoints to a pipeline folder of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel, UNet2DConditionModel, UniPCMultistepScheduler

from ..conversion.base import base_unet_if_equal, load_base
from ..conversion.checkpoints import PathLike, load_parts, new_folder, read_model_config, read_model_folder, stock_key
from .adapter import FUSION, LOW_LEVEL, XPSRAdapter
from .constraint import DegradationFreeConstraint
from .pasd import PASDPipeline
from .pipeline import XPSRPipeline

BASE_MIRROR = "stable-diffusion-v1-5/stable-diffusion-v1-5"
# Flags of the official models for parts that here belong to the adapter and the constraint.
UNET_OPTIONS = ("up_use_lowlevel_prompt", "mid_use_lowlevel_prompt", "down_use_lowlevel_prompt")
CONTROLNET_OPTIONS = ("return_rgbs", "use_rrdb", "use_lowlevel_prompt", "use_latent_pred")

Method: TypeAlias = Literal["xpsr", "pasd"]

_LOW_LEVEL_KEYS = re.compile(r".*\.attentions_(lowlevel|connect)\.")
_LIGHT_KEYS = re.compile(r".*\.(norm2|attn2|proj_in)_plus\.")


class OfficialNetworks(NamedTuple):
    """The contents of an official checkpoint: stock models, the adapter, which is not attached, and the constraint."""

    unet: UNet2DConditionModel
    controlnet: ControlNetModel
    adapter: XPSRAdapter
    constraint: DegradationFreeConstraint


def convert(unet: PathLike, controlnet: PathLike, output: PathLike, *, base: PathLike | None = None) -> None:
    """Write a folder for `XPSRPipeline.from_pretrained` from the official XPSR folders.

    Besides the components that the pipeline loads, the folder has a subfolder `constraint`, for continuing the
    training. Without `base`, the VAE, text encoder, tokenizer and scheduler are left out and have to be passed to
    `from_pretrained`.

    Args:
        unet: official `unet` folder.
        controlnet: official `controlnet` folder.
        output: folder to write, which must not exist or must be empty; it appears once it is complete.
        base: folder or Hub id of the Stable Diffusion the checkpoint was trained on, 1.5 for the released one. XPSR
            leaves its UNet frozen: if the checkpoint's equals the base's, the base's is used; if not, the
            checkpoint's is kept and the keys that differ are logged.

    Raises:
        FileExistsError: if `output` exists and is not an empty folder.
        FileNotFoundError: if a file is missing.
        OSError: if the base cannot be loaded.
        ValueError: if keys are missing, unexpected or mis-shaped, if a file is damaged, if the checkpoint is another
            method's, or if it was made with options of the official code that the released one does not use.
    """
    _convert("xpsr", unet, controlnet, output, base)


def convert_pasd(unet: PathLike, controlnet: PathLike, output: PathLike, *, base: PathLike | None = None) -> None:
    """Write a folder for `PASDPipeline.from_pretrained` from the official PASD folders.

    As in the official code, the scheduler is UniPC, with the base's noise schedule. The UNet of a personalised base
    model can take the place of the one in the written folder. The lighter architecture of the official code,
    `pasd_light`, is refused.

    Args:
        unet: official `unet` folder.
        controlnet: official `controlnet` folder.
        output: folder to write, which must not exist or must be empty; it appears once it is complete.
        base: folder or Hub id of the Stable Diffusion the checkpoint was trained on, 1.5 for the released one. If the
            checkpoint's UNet equals the base's, the base's is used; if not, the checkpoint's is kept and the keys
            that differ are logged.

    Raises:
        OSError, ValueError: as `convert` does.
    """
    _convert("pasd", unet, controlnet, output, base)


def _convert(method: Method, unet: PathLike, controlnet: PathLike, output: PathLike, base: PathLike | None) -> None:
    with new_folder(output) as folder:
        networks = load_networks(method, unet, controlnet)
        components: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "scheduler"))
        unet_model = networks.unet
        if base is not None:
            components = load_base(base, unet_model.config.cross_attention_dim, BASE_MIRROR)
            unet_model = base_unet_if_equal(unet_model, components.pop("unet"), base)
            if method == "pasd":
                components["scheduler"] = UniPCMultistepScheduler.from_config(components["scheduler"].config)
        pipeline_class = PASDPipeline if method == "pasd" else XPSRPipeline
        pipeline_class(
            unet=unet_model,
            controlnet=networks.controlnet,
            adapter=networks.adapter,
            **components,
        ).save_pretrained(folder)
        networks.constraint.save_pretrained(folder / "constraint")


def load_networks(method: Method, unet_folder: PathLike, controlnet_folder: PathLike) -> OfficialNetworks:
    """Read the official `unet` and `controlnet` folders. Weights keep their dtype; models are in evaluation mode.

    Raises:
        FileNotFoundError: if a folder lacks its configuration or its weights.
        ValueError: as `convert` does; all keys that are wrong are listed.
    """
    unet_config = _read_config(unet_folder, UNet2DConditionModel, UNET_OPTIONS)
    controlnet_config = _read_config(controlnet_folder, ControlNetModel, ("use_rrdb",))
    unet_state, controlnet_state = read_model_folder(unet_folder), read_model_folder(controlnet_folder)
    _check_method(method, controlnet_state, controlnet_folder)
    for state_dict, folder in ((unet_state, unet_folder), (controlnet_state, controlnet_folder)):
        _check_architecture(state_dict, folder)
    has_latent_heads = any(key.startswith("conv_degradation") for key in controlnet_state)
    with init_empty_weights(include_buffers=False):
        unet = UNet2DConditionModel.from_config(unet_config)
        controlnet = ControlNetModel.from_config(controlnet_config)
        adapter = XPSRAdapter.from_hosts(unet, controlnet, fusion=method == "xpsr")
        constraint = DegradationFreeConstraint.from_controlnet(controlnet, "code" if has_latent_heads else "none")
    load_parts(unet_state, [(unet, stock_key), (adapter.unet, _official_pixel_attention)], unet_folder)
    load_parts(
        controlnet_state,
        [(controlnet, stock_key), (adapter.controlnet, _official_fusion), (constraint, _official_head)],
        controlnet_folder,
    )
    return OfficialNetworks(unet.eval(), controlnet.eval(), adapter.eval(), constraint.eval())


def _official_pixel_attention(key: str) -> str:
    """Give `up_blocks.I.pixel_attentions.J.rest` for the site of text transformer or residual block J."""
    site, _, rest = key.partition(".")
    block, _, number = site.rsplit("__", 2)
    return f"{block.replace('__', '.')}.pixel_attentions.{number}.{rest}"


def _official_fusion(key: str) -> str:
    """Give `X.attentions_lowlevel.J.rest` or `X.attentions_connect.J.rest` for the site `X.attentions.J`."""
    site, part, rest = key.split(".", 2)
    block, _, number = site.rpartition("__attentions__")
    name = {LOW_LEVEL: "attentions_lowlevel", FUSION: "attentions_connect"}[part]
    return f"{block.replace('__', '.')}.{name}.{number}.{rest}"


def _official_head(key: str) -> str:
    return f"controlnet_cond_embedding.{key}" if key.startswith("to_rgbs.") else key


def _read_config(folder: PathLike, model_class: type[Any], unused: tuple[str, ...]) -> dict[str, Any]:
    """Read the stock configuration.

    Raises:
        ValueError: if one of the options `unused` by the released checkpoints is set.
    """
    config = read_model_config(folder, model_class.__name__)
    for option in unused:
        value = config.get(option, False)
        if any(value) if isinstance(value, list) else value:
            raise ValueError(
                f"{folder} has {option}={value!r}, which the released checkpoints do not have and which is not "
                "supported: give a checkpoint without it."
            )
    return {key: value for key, value in config.items() if key not in (*UNET_OPTIONS, *CONTROLNET_OPTIONS)}


def _check_method(method: Method, state_dict: Mapping[str, torch.Tensor], folder: PathLike) -> None:
    has_fusion = any(_LOW_LEVEL_KEYS.match(key) for key in state_dict)
    if method == "xpsr" and not has_fusion:
        raise ValueError(
            f"{folder} does not hold an XPSR checkpoint: it has neither `attentions_lowlevel` nor "
            "`attentions_connect`. Convert a PASD checkpoint with `diffusers-sr convert pasd`."
        )
    if method == "pasd" and has_fusion:
        raise ValueError(
            f"{folder} holds an XPSR checkpoint, with `attentions_lowlevel` and `attentions_connect`: convert it with "
            "`diffusers-sr convert xpsr`."
        )


def _check_architecture(state_dict: Mapping[str, torch.Tensor], folder: PathLike) -> None:
    light = next((key for key in state_dict if _LIGHT_KEYS.match(key)), None)
    if light is not None:
        raise ValueError(
            f"{folder} holds a checkpoint of PASD's lighter architecture, pasd_light ({light}), whose attention lies "
            "inside the transformer blocks. It is not supported: give one of the architecture pasd."
        )
