"""Fine-tune a trained XPSR for sampling in one step (`diffusers_sr.training.adversarial`).

    accelerate launch training/train_xpsr_adversarial.py --train_data_dir PHOTOS --prompts_dir prompts \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --xpsr runs/xpsr \
        --output_dir runs/xpsr_adversarial

The output folder holds `controlnet` and `adapter`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from diffusers import ControlNetModel, DDPMScheduler

from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.training.adversarial import AdversarialArguments, AdversarialLoss, enlarge_in_one_step
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.engine import train
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.publish import HubArguments, one_step_publisher
from diffusers_sr.training.script import run_script
from diffusers_sr.training.text import PromptArguments
from diffusers_sr.training.trainable import load_frozen_base
from diffusers_sr.training.xpsr import TrainableXPSR
from diffusers_sr.xpsr.adapter import XPSRAdapter
from diffusers_sr.xpsr.pipeline import XPSRPipeline


@dataclass(kw_only=True)
class XPSRAdversarialArguments(AdversarialArguments, PromptArguments, HubArguments):
    """Options for training ControlNet, semantic fusion and pixel attention on the picture of a single step."""

    pretrained_model_name_or_path: str = option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion: a folder or a Hub id."
    )
    xpsr: str = field(metadata={"help": "Output folder of train_xpsr.py."})


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(XPSRAdversarialArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    denoiser = TrainableXPSR(
        base,
        load_pretrained(ControlNetModel, arguments.xpsr, "controlnet"),
        load_pretrained(XPSRAdapter, arguments.xpsr, "adapter"),
        null_text_ratio=arguments.null_text_ratio,
    )
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    dataset = degraded_crops(arguments)
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    loss = AdversarialLoss.from_arguments(denoiser, scheduler, arguments)
    call = {"process_size": arguments.resolution, "captioner": "measured", "added_noise_level": 0}
    enlarge = enlarge_in_one_step(XPSRPipeline, denoiser, scheduler, **call)
    publish = one_step_publisher(arguments, XPSRPipeline, scheduler, **call)
    train(loss, dataset, arguments, denoiser.save, enlarge, publish)


if __name__ == "__main__":
    run_script(main)
