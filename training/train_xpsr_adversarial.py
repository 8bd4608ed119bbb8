"""Fine-tune a trained XPSR for sampling in one step (`diffusers_sr.training.adversarial`).

    accelerate launch training/train_xpsr_adversarial.py --train_data_dir PHOTOS --prompts_dir prompts \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --xpsr runs/xpsr \
        --output_dir runs/xpsr_adversarial

The output folder holds `controlnet` and `adapter`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from diffusers import ControlNetModel

from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.training.adversarial import AdversarialArguments, AdversarialLoss, start_scheduler
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.pairs import crops_and_pairs
from diffusers_sr.training.pipeline_run import train_one_step_pipeline
from diffusers_sr.training.publish import HubArguments
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
    dataset = crops_and_pairs(arguments)
    scheduler = start_scheduler(base.scheduler, arguments)
    loss = AdversarialLoss.from_arguments(denoiser, scheduler, arguments)
    call = {"process_size": arguments.resolution, "captioner": "measured", "added_noise_level": 0}
    train_one_step_pipeline(loss, dataset, arguments, XPSRPipeline, scheduler, **call)


if __name__ == "__main__":
    run_script(main)
