"""Read the networks of official SeeSR checkpoints: stock models, the adapter, and the tagger that fits it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel, UNet2DConditionModel

from ..conversion.checkpoints import PathLike, load_parts, read_model_config, read_model_folder, stock_key
from .adapter import SeeSRAdapter
from .convert_tagger import load_tagger
from .tagger import Tagger

# The flag that builds the image attention: here that is the adapter's task, and the models are stock.
OWN_OPTIONS = ("use_image_cross_attention",)


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


def load_fitting_tagger(
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
