"""Train the whole UNet of a Stable Diffusion, best a small one, to restore photos in one step.

    accelerate launch training/train_one_step.py --train_data_dir PHOTOS --resolution 128 --train_batch_size 8 \
        --pretrained_model_name_or_path diffusers_sr/models/base-small --ema_decay 0.999 --output_dir runs/one_step

There is nothing random between the photo and the result: from the photo's latents one pass predicts their difference
to those of the restored photo ("residual", as in PiSA-SR), or the noise that they would consist of ("x0", as in
OSEDiff). The prompt is empty, unless --null_text_ratio is below 1. The output folder is a `OneStepPipeline`, which
`diffusers-sr upscale --model` takes.

With --block_out_channels the UNet is a new one, which begins as the identity ("residual"), and with --vae the
autoencoder is another than the base's. --pairs_lr_dir and --pairs_hr_dir mix in pairs that are made already: real
ones of a camera, or what a strong model makes of degraded photos, whose sharpness a small one learns from far fewer
steps than from a discriminator.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, cast, get_args

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_mixture import DEGRADATIONS
from diffusers_sr.data.mixed import MixedCrops
from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.one_step.prediction import Prediction
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.sampling.autoencoder import pixels_per_latent
from diffusers_sr.training import osediff
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.autoencoders import load_autoencoder
from diffusers_sr.training.judgement import (
    Judgement,
    LatentGrid,
    Overshoot,
    ShiftTolerantDistance,
    WaveletSimilarity,
)
from diffusers_sr.training.one_step import OneStepArguments, OneStepLoss, TrainableOneStep, one_step_scheduler_of
from diffusers_sr.training.one_step_run import train_one_step
from diffusers_sr.training.perceptual import load_lpips
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.ranges import Count, CountFromZero, OneOf, Share, Weight
from diffusers_sr.training.script import run_script
from diffusers_sr.training.trainable import load_frozen_base
from diffusers_sr.training.unets import new_unet, predict_nothing

WEIGHTS = (
    "l1_weight",
    "l2_weight",
    "latent_weight",
    "lpips_weight",
    "stlpips_weight",
    "haarpsi_weight",
    "grid_weight",
    "overshoot_weight",
    "feature_weight",
    "adversarial_weight",
)
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
    stlpips_weight: Weight = option(0.0, "Weight of shift-tolerant LPIPS, which needs the package stlpips-pytorch.")
    stlpips_samples: Count | None = option(None, "Samples of a batch that it compares; by default all.")
    haarpsi_weight: Weight = option(0.0, "Weight of how far HaarPSI, a similarity of wavelets, is from 1.")
    grid_weight: Weight = option(0.0, "Weight of the error that repeats with the pitch of the latents, a weave.")
    overshoot_weight: Weight = option(0.0, "Weight of how far pixels leave the range of the target around them.")
    feature_weight: Weight = option(0.0, "Weight of the absolute error of a discriminator's features.")
    adversarial_weight: Weight = option(0.0, "Weight of a discriminator's judgement, which is trained as well.")
    vae: str | None = option(None, "Folder of an AutoencoderKL or AutoencoderDC to use instead of the base's.")
    block_out_channels: list[Count] = field(
        default_factory=list,
        metadata={"help": "Channels of each level of a new UNet, without attention, instead of the base's."},
    )
    layers_per_block: Count = option(1, "Residual layers in each level of a new UNet.")
    pairs_lr_dir: str | None = option(None, "Folder of low-resolution pictures to mix in; needs --pairs_hr_dir.")
    pairs_hr_dir: str | None = option(
        None, "Folder of their targets, by name: photos, or the results of another model."
    )
    pairs_ratio: Share = option(0.5, "Share of samples that are pairs of these folders.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.pairs_lr_dir is None) != (self.pairs_hr_dir is None):
            raise ValueError("--pairs_lr_dir and --pairs_hr_dir belong together: give both, or neither.")
        if self.block_out_channels and self.unet_model_name_or_path is not None:
            raise ValueError(
                "--block_out_channels makes a new UNet, --unet_model_name_or_path names one: leave out one of them."
            )
        if not any(getattr(self, name) for name in WEIGHTS):
            raise ValueError(f"{', '.join(WEIGHTS[:-1])} and {WEIGHTS[-1]} are all 0: one of them has to be above.")


def start(arguments: OneStepUNetArguments) -> StableDiffusionPipeline:
    """Load the base, with the autoencoder and the UNet that the options name in place of its own."""
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    if arguments.vae is not None:
        base.register_modules(vae=load_autoencoder(arguments.vae))
    if arguments.unet_model_name_or_path is not None:
        base.register_modules(unet=load_pretrained(UNet2DConditionModel, arguments.unet_model_name_or_path, "unet"))
    if arguments.block_out_channels:
        unet = new_unet(
            base.vae,
            arguments.resolution,
            arguments.block_out_channels,
            arguments.layers_per_block,
            attention_head_dim=32,
            cross_attention_dim=base.text_encoder.config.hidden_size,
            has_attention=False,
        )
        base.register_modules(unet=predict_nothing(unet))
    return base


def samples(arguments: OneStepUNetArguments) -> PhotoCrops | MixedCrops:
    """Make the run's samples: degraded crops, and the pairs that are mixed in."""
    crops = degraded_crops(arguments, degradation=DEGRADATIONS[arguments.degradation])
    if arguments.pairs_hr_dir is None:
        return crops
    pairs = replace(
        arguments,
        train_data_dir=arguments.pairs_hr_dir,
        train_lr_dir=arguments.pairs_lr_dir,
        tags_file=None,
        dataset_name=None,
        train_shards_path_or_url=None,
        streaming=False,
        train_data_weights=None,
        resize_mode="crop",
        max_train_samples=None,
        exclude_data=None,
    )
    return MixedCrops(crops, degraded_crops(pairs), arguments.pairs_ratio)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(OneStepUNetArguments, argv)
    torch.manual_seed(arguments.seed)
    perceptual = load_lpips() if arguments.lpips_weight else None
    call = {"process_size": arguments.resolution}
    denoiser = TrainableOneStep(
        base := start(arguments),
        one_step_scheduler_of(base.scheduler, arguments.timestep, cast(Prediction, arguments.prediction)),
        PAPERS[arguments.prediction],
        null_text_ratio=arguments.null_text_ratio,
        call_defaults=call,
        base_name=arguments.pretrained_model_name_or_path,
    )
    comparisons: list[nn.Module] = []
    if arguments.stlpips_weight:
        comparisons.append(ShiftTolerantDistance(arguments.stlpips_weight, arguments.stlpips_samples))
    if arguments.haarpsi_weight:
        comparisons.append(WaveletSimilarity(arguments.haarpsi_weight))
    if arguments.grid_weight:
        comparisons.append(LatentGrid(arguments.grid_weight, pixels_per_latent(base.vae)))
    if arguments.overshoot_weight:
        comparisons.append(Overshoot(arguments.overshoot_weight))
    if arguments.feature_weight or arguments.adversarial_weight:
        comparisons.append(Judgement(arguments.feature_weight, arguments.adversarial_weight))
    loss = OneStepLoss(
        denoiser,
        arguments.l2_weight,
        arguments.l1_weight,
        arguments.latent_weight,
        perceptual,
        arguments.lpips_weight,
        comparisons=comparisons,
    )
    train_one_step(loss, arguments, call, samples(arguments))


if __name__ == "__main__":
    run_script(main)
