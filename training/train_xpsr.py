"""Train XPSR (paper, section 3): ControlNet, semantic fusion and pixel attention, degradation-free constraint.

    diffusers-sr caption PHOTOS --recursive --output prompts
    accelerate launch training/train_xpsr.py --train_data_dir PHOTOS --prompts_dir prompts \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --output_dir runs/xpsr

The output folder is that of an `XPSRPipeline`; what is the base's is only named there if the base is on the Hub. In it
is also `constraint`, which only training needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, get_args

import torch
from diffusers import DDPMScheduler
from torch.utils.data import Dataset

from diffusers_sr.data.made_prompts import CropsWithPrompts
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.losses import DenoisingLoss
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.pipeline_run import train_pipeline
from diffusers_sr.training.publish import HubArguments
from diffusers_sr.training.ranges import OneOf, Share, Weight
from diffusers_sr.training.script import run_script
from diffusers_sr.training.text import PromptArguments
from diffusers_sr.training.trainable import DenoiserArguments, controlnet_to_train, load_frozen_base
from diffusers_sr.training.xpsr import TrainableXPSR
from diffusers_sr.xpsr.adapter import Fusion, XPSRAdapter
from diffusers_sr.xpsr.constraint import LATENT_TERMS, DegradationFreeConstraint
from diffusers_sr.xpsr.pipeline import XPSRPipeline


@dataclass(kw_only=True)
class XPSRArguments(DenoiserArguments, PromptArguments, HubArguments):
    """Options for ControlNet, semantic fusion and pixel attention; defaults are the official script's, where it works.

    The official script never feeds the high-level prompt; this one does, as in the paper.
    """

    pretrained_model_name_or_path: str = option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion: a folder or a Hub id."
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
    sample_prompts_dir: str | None = option(
        None, "Output folder of make_prompts.py: prompts of a captioner for the degraded crops of some samples."
    )
    sample_prompts_ratio: Share = option(
        0.5, "Share of samples that are those with such prompts, if there is a folder of them."
    )

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
    crops = degraded_crops(arguments)
    dataset: Dataset[Any] = crops
    if arguments.sample_prompts_dir is not None:
        dataset = CropsWithPrompts(crops, arguments.sample_prompts_dir, arguments.sample_prompts_ratio)
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    call = {"process_size": arguments.resolution, "captioner": "measured"}
    loss = DenoisingLoss(denoiser, scheduler)
    train_pipeline(loss, dataset, arguments, XPSRPipeline, base.scheduler, call)


if __name__ == "__main__":
    run_script(main)
