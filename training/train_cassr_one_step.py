"""Fine-tunes a trained CasSR for sampling in one step (`diffusers_sr.one_step`).

    accelerate launch training/train_cassr_one_step.py --train_data_dir PHOTOS \
        --cassr runs/cassr --scedit runs/scedit_one_step \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --output_dir runs/cassr_one_step

The references are made in one step too, as they will be by the pipeline. The output folder holds what train_cassr.py's
does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from diffusers import ControlNetModel, DDPMScheduler

from diffusers_sr.arguments import option, parse_arguments
from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.cassr.adapter import CasSRAdapter
from diffusers_sr.cassr.pipeline import CasSRPipeline
from diffusers_sr.cassr.training import CasSRDenoiser
from diffusers_sr.data.sources import degraded_crops
from diffusers_sr.denoiser import load_frozen_base
from diffusers_sr.one_step import OneStepArguments, OneStepLoss, enlarge_in_one_step
from diffusers_sr.publishing import HubArguments, one_step_publisher
from diffusers_sr.training import train


@dataclass(kw_only=True)
class CasSROneStepArguments(OneStepArguments, HubArguments):
    """Trains ControlNet and attention on the picture of a single step."""

    pretrained_model_name_or_path: str = option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion: a folder or a Hub id."
    )
    cassr: str = field(metadata={"help": "Output folder of train_cassr.py."})
    scedit: str = field(metadata={"help": "Output folder of train_scedit_one_step.py."})


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(CasSROneStepArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    denoiser = CasSRDenoiser(
        base,
        ControlNetModel.from_pretrained(arguments.cassr, subfolder="controlnet"),
        CasSRAdapter.from_pretrained(arguments.cassr, subfolder="adapter"),
        SCEditAdapter.from_pretrained(arguments.scedit, subfolder="activation"),
        arguments.null_text_ratio,
    )
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    loss = OneStepLoss.from_arguments(denoiser, scheduler, arguments)
    call = {"process_size": arguments.resolution, "activation_guidance_scale": 1.0}
    enlarge = enlarge_in_one_step(CasSRPipeline, denoiser, scheduler, **call)
    publish = one_step_publisher(arguments, CasSRPipeline, scheduler, **call)
    train(loss, degraded_crops(arguments), arguments, denoiser.save, enlarge, publish)


if __name__ == "__main__":
    main()
