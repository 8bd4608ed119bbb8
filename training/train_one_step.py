"""Train the whole UNet of a Stable Diffusion, best a small one, to restore photos in one step.

    accelerate launch training/train_one_step.py --train_data_dir PHOTOS --resolution 128 --train_batch_size 8 \
        --pretrained_model_name_or_path diffusers_sr/models/base-small --ema_decay 0.999 --output_dir runs/one_step

There is nothing random between the photo and the result: from the photo's latents one pass predicts their difference
to those of the restored photo ("residual", as in PiSA-SR), or the noise that they would consist of ("x0", as in
OSEDiff). The prompt is empty, unless --null_text_ratio is below 1. The output folder is a `OneStepPipeline`, which
`diffusers-sr upscale --model` takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast, get_args

import torch
from diffusers import UNet2DConditionModel

from diffusers_sr.data.degradation_mixture import DEGRADATIONS
from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.one_step.prediction import Prediction
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.training import osediff
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.engine import train
from diffusers_sr.training.one_step import OneStepArguments, OneStepLoss, TrainableOneStep, one_step_scheduler_of
from diffusers_sr.training.perceptual import load_lpips
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.publish import pipeline_publisher
from diffusers_sr.training.ranges import CountFromZero, OneOf, Share, Weight
from diffusers_sr.training.script import run_script
from diffusers_sr.training.trainable import load_frozen_base

PAPERS = {"residual": OneStepPipeline.paper, "x0": osediff.PAPER}


@dataclass(kw_only=True)
class OneStepUNetArguments(OneStepArguments):
    """Options for a UNet that is trained whole; their defaults are this project's own."""

    unet_model_name_or_path: str | None = option(
        None, "Output folder of this script, to start from its UNet instead of the base's."
    )
    prediction: Annotated[str, OneOf(get_args(Prediction))] = option(
        "residual", "What the UNet predicts: residual, or noise that gives x0."
    )
    timestep: CountFromZero = option(1, "Timestep that the UNet is told; OSEDiff's x0 is at 999.")
    null_text_ratio: Share = option(1.0, "Share of batches that are trained with the empty prompt instead of tags.")
    l1_weight: Weight = option(1.0, "Weight of the mean absolute error of the pixels, which are in [-1, 1].")
    l2_weight: Weight = option(0.0, "Weight of the mean squared error of the pixels.")
    latent_weight: Weight = option(0.1, "Weight of the mean absolute error of the latents.")
    lpips_weight: Weight = option(0.0, "Weight of LPIPS, which needs the package lpips.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.l1_weight or self.l2_weight or self.latent_weight or self.lpips_weight):
            raise ValueError(
                "l1_weight, l2_weight, latent_weight and lpips_weight are all 0: one of them has to be above."
            )


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(OneStepUNetArguments, argv)
    torch.manual_seed(arguments.seed)
    perceptual = load_lpips() if arguments.lpips_weight else None
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    if arguments.unet_model_name_or_path is not None:
        base.unet = load_pretrained(UNet2DConditionModel, arguments.unet_model_name_or_path, "unet")
    call = {"process_size": arguments.resolution}
    denoiser = TrainableOneStep(
        base,
        one_step_scheduler_of(base.scheduler, arguments.timestep, cast(Prediction, arguments.prediction)),
        PAPERS[arguments.prediction],
        null_text_ratio=arguments.null_text_ratio,
        call_defaults=call,
        base_name=arguments.pretrained_model_name_or_path,
    )
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    loss = OneStepLoss(
        denoiser,
        arguments.l2_weight,
        arguments.l1_weight,
        arguments.latent_weight,
        perceptual,
        arguments.lpips_weight,
    )
    dataset = degraded_crops(arguments, degradation=DEGRADATIONS[arguments.degradation])
    publish = pipeline_publisher(arguments, OneStepPipeline)
    train(loss, dataset, arguments, denoiser.save, denoiser.enlarge(**call), publish)


if __name__ == "__main__":
    run_script(main)
