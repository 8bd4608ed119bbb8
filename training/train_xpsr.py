"""Train XPSR (paper, section 3): ControlNet, semantic fusion and pixel attention, degradation-free constraint.

    diffusers-sr caption PHOTOS --output prompts
    accelerate launch training/train_xpsr.py --train_data_dir PHOTOS --prompts_dir prompts \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --output_dir runs/xpsr

The output folder holds `controlnet` and `adapter`, which with the base make an `XPSRPipeline`, and `constraint`, which
only training needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, get_args

import torch
from diffusers import DDPMScheduler

from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.engine import train
from diffusers_sr.training.losses import DenoisingLoss
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.publish import HubArguments, publisher
from diffusers_sr.training.ranges import OneOf, Share, Weight
from diffusers_sr.training.script import run_script
from diffusers_sr.training.trainable import DenoiserArguments, controlnet_to_train, load_frozen_base
from diffusers_sr.training.validation import enlarge_with
from diffusers_sr.training.xpsr import TrainableXPSR, with_prompts
from diffusers_sr.xpsr.adapter import Fusion, XPSRAdapter
from diffusers_sr.xpsr.constraint import LATENT_TERMS, DegradationFreeConstraint
from diffusers_sr.xpsr.pipeline import XPSRPipeline


@dataclass(kw_only=True)
class XPSRArguments(DenoiserArguments, HubArguments):
    """Options for ControlNet, semantic fusion and pixel attention; defaults are the official script's, where it works.

    The official script never feeds the high-level prompt; this one does, as in the paper.
    """

    pretrained_model_name_or_path: str = option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion: a folder or a Hub id."
    )
    prompts_dir: str | None = option(
        None, "Folder of prompts for the photos, by `diffusers-sr caption`; instead of --tags_file."
    )
    controlnet_model_name_or_path: str | None = option(
        None, "ControlNet to start from: a folder or a Hub id. By default a new one is made."
    )
    leave_out_sites: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Beginnings of the names of sites that get no new attention, such as up_blocks.3, to save memory."
        },
    )
    constraint_weight: Weight = option(
        0.05, "Weight of each term of the degradation-free constraint; with 0 there is none (ablation)."
    )
    pixel_terms: bool = option(True, "Whether it constrains pixels; with false the latents alone (ablation).")
    latent_terms: Annotated[str, OneOf(LATENT_TERMS)] = option(
        "code", "Latents that it constrains: paper (three sizes), code (all), or none: the pixels alone (ablation)."
    )
    fusion: Annotated[str, OneOf(get_args(Fusion))] = option(
        "sfa",
        "How the ControlNet reads the prompts: sfa (semantic-fusion attention), or its ablations: parallel, serial, "
        "and the high- or the low-level prompt alone.",
    )
    null_text_ratio: Share = option(0.0, "Share of samples without the high-level prompt.")
    clean_ratio: Share = option(0.1, "Share of samples that see the clean crop.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.constraint_weight and not self.pixel_terms and self.latent_terms == "none":
            raise ValueError("Without pixel and latent terms no constraint is left: give --constraint_weight 0.")


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(XPSRArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    controlnet = controlnet_to_train(base, arguments.controlnet_model_name_or_path)
    constraint = None
    if arguments.constraint_weight:
        constraint = DegradationFreeConstraint.from_controlnet(
            controlnet, arguments.latent_terms, arguments.pixel_terms
        )
    denoiser = TrainableXPSR(
        base,
        controlnet,
        XPSRAdapter.from_hosts(base.unet, controlnet, arguments.fusion, arguments.leave_out_sites),
        constraint,
        arguments.constraint_weight,
        arguments.null_text_ratio,
        arguments.clean_ratio,
    )
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    dataset = with_prompts(degraded_crops(arguments), arguments.prompts_dir)
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    call = {"process_size": arguments.resolution, "captioner": "measured"}
    enlarge = enlarge_with(XPSRPipeline, denoiser, scheduler, **call)
    publish = publisher(arguments, XPSRPipeline, call)
    train(DenoisingLoss(denoiser, scheduler), dataset, arguments, denoiser.save, enlarge, publish)


if __name__ == "__main__":
    run_script(main)
