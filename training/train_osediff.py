"""Train OSEDiff (arXiv:2406.08177): LoRA on the UNet and on the VAE's encoder, and the whole of `conv_in`.

    accelerate launch training/train_osediff.py --config training/recipes/osediff_24gb.yaml \
        --train_shards_path_or_url shards --tagger runs/dape --output_dir runs/osediff

It is trained by the mean squared error of the pixels, LPIPS on VGG, and variational score distillation on the latents,
against a regulariser that learns in every step to denoise what is restored. Of the regulariser only a LoRA in the mid
block is trained, as the official code in fact does (`regulariser_of`). The official code clips the gradients of model
and regulariser apart; here the norm of all of them is clipped.

LPIPS needs the package `lpips`: without it the script ends before the training. The output folder is a
`OneStepPipeline`, as `diffusers-sr convert osediff` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from diffusers_sr.data.degradation_mixture import DEGRADATIONS
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.seesr.tagger import Tagger
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.distillation import GuidedTeacher, VariationalScoreDistillation
from diffusers_sr.training.one_step import OneStepArguments, OneStepLoss, one_step_scheduler_of
from diffusers_sr.training.one_step_run import train_one_step
from diffusers_sr.training.osediff import TrainableOSEDiff, regulariser_of
from diffusers_sr.training.perceptual import load_lpips
from diffusers_sr.training.ranges import Count, OneOf, Share, Weight
from diffusers_sr.training.script import run_script
from diffusers_sr.training.trainable import load_frozen_base

NEGATIVE_PROMPT = (
    "painting, oil painting, illustration, drawing, art, sketch, cartoon, CG Style, 3D render, unreal engine, "
    "blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, deformed, "
    "lowres, over-smooth"
)


@dataclass(kw_only=True)
class OSEDiffArguments(OneStepArguments):
    """Options for OSEDiff; defaults are the official script's."""

    tagger: str | None = option(
        None, "Folder of the tagger that the pipeline gets; without one its calls have to bring the tags."
    )
    degradation: Annotated[str, OneOf(tuple(DEGRADATIONS))] = option("osediff", "How photos are degraded.")
    null_text_ratio: Share = option(0.0, "Share of batches that are trained with the empty prompt instead of tags.")
    lora_rank: Count = option(4, "Rank of the LoRAs.")
    l2_weight: Weight = option(1.0, "Weight of the mean squared error of the pixels, which are in [-1, 1].")
    lpips_weight: Weight = option(2.0, "Weight of LPIPS; with 0 the package lpips is not needed.")
    vsd_weight: Weight = option(1.0, "Weight of variational score distillation.")
    vsd_guidance_scale: Weight = option(7.5, "Guidance of the frozen Stable Diffusion that it is distilled from.")
    vsd_negative_prompt: str = option(NEGATIVE_PROMPT, "What the guidance leads away from.")
    regulariser_weight: Weight = option(1.0, "Weight of the regulariser's own loss.")


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(OSEDiffArguments, argv)
    torch.manual_seed(arguments.seed)
    perceptual = load_lpips() if arguments.lpips_weight else None
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    if (kind := base.scheduler.config.prediction_type) != "epsilon":
        raise ValueError(
            f"--pretrained_model_name_or_path {arguments.pretrained_model_name_or_path} was trained to predict "
            f"{kind!r}, but OSEDiff needs a base that predicts noise: give Stable Diffusion 2.1-base."
        )
    tagger = None if arguments.tagger is None else load_pretrained(Tagger, arguments.tagger)
    distillation = None
    if arguments.vsd_weight:
        teacher = GuidedTeacher.from_base(base, arguments.vsd_negative_prompt, arguments.vsd_guidance_scale)
        regulariser = regulariser_of(base.unet, arguments.lora_rank)
        if arguments.gradient_checkpointing:
            regulariser.enable_gradient_checkpointing()
        distillation = VariationalScoreDistillation(
            teacher, regulariser, arguments.vsd_weight, arguments.regulariser_weight
        )
    call: dict[str, Any] = {"process_size": arguments.resolution}
    denoiser = TrainableOSEDiff(
        base,
        one_step_scheduler_of(base.scheduler, timestep=999, prediction="x0"),
        arguments.lora_rank,
        tagger,
        arguments.null_text_ratio,
        call,
        arguments.pretrained_model_name_or_path,
    )
    loss = OneStepLoss(
        denoiser,
        l2_weight=arguments.l2_weight,
        perceptual=perceptual,
        perceptual_weight=arguments.lpips_weight,
        distillation=distillation,
    )
    train_one_step(loss, arguments, call | ({"prompt": ""} if tagger is None else {}))


if __name__ == "__main__":
    run_script(main)
