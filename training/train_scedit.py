"""Train CasSR's image activation (paper, stage 1): SCEdit's tuners on the skip connections of a frozen UNet.

    accelerate launch training/train_scedit.py --train_data_dir PHOTOS \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --output_dir runs/scedit

The output folder holds `activation`, with which training/make_references.py makes the references for train_cassr.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from diffusers import DDPMScheduler

from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.cassr.denoiser import ActivationModel
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.cassr import ACTIVATIONS, TrainableSCEdit
from diffusers_sr.training.engine import train
from diffusers_sr.training.last_line import next_stage
from diffusers_sr.training.losses import DenoisingLoss
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.ranges import Count, OneOf, Share, Weight
from diffusers_sr.training.script import run_script
from diffusers_sr.training.trainable import (
    DenoiserArguments,
    condition_channels,
    controlnet_to_train,
    load_frozen_base,
)


@dataclass(kw_only=True)
class SCEditArguments(DenoiserArguments):
    """Options for the tuners; the learning rate is scepter's."""

    pretrained_model_name_or_path: str = option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion: a folder or a Hub id."
    )
    learning_rate: Weight = option(1e-4, "Peak learning rate of AdamW.")
    null_text_ratio: Share = option(0.1, "Share of samples without the general prompt.")
    sharpen_target: bool = option(False, "Train towards USM-sharpened photos.")
    activation: Annotated[str, OneOf(tuple(ACTIVATIONS))] = option(
        "scedit", "What to train: scedit, or a controlnet in its place (paper, Table 2)."
    )
    dense_hint_kernel: Count = option(
        3, "Kernel of the convolutions between hints: 3, or 1 for a ninth of their weights."
    )


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(SCEditArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    activation: ActivationModel
    if arguments.activation == "controlnet":
        activation = controlnet_to_train(base)
    else:
        activation = SCEditAdapter.from_host(
            base.unet, hint_channels=condition_channels(base.vae), dense_hint_kernel=arguments.dense_hint_kernel
        )
    denoiser = TrainableSCEdit(base, activation, arguments.null_text_ratio)
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    last_line = next_stage(arguments.output_dir, "make_references", "--scedit")
    train(DenoisingLoss(denoiser, scheduler), degraded_crops(arguments), arguments, denoiser.save, last_line=last_line)


if __name__ == "__main__":
    run_script(main)
