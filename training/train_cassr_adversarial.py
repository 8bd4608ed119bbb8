"""Fine-tune a trained CasSR for sampling in one step (`diffusers_sr.training.adversarial`).

    accelerate launch training/train_cassr_adversarial.py --train_data_dir PHOTOS \
        --cassr runs/cassr --scedit runs/scedit_adversarial \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --output_dir runs/cassr_adversarial

The references are made in one step too, as the pipeline will make them. The output folder holds the same as that of
train_cassr.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from diffusers import ControlNetModel

from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.cassr.adapter import CasSRAdapter
from diffusers_sr.cassr.pipeline import CasSRPipeline
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.training.adversarial import AdversarialArguments, AdversarialLoss, start_scheduler
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.cassr import TrainableCasSR
from diffusers_sr.training.pairs import crops_and_pairs
from diffusers_sr.training.pipeline_run import train_one_step_pipeline
from diffusers_sr.training.publish import HubArguments
from diffusers_sr.training.script import run_script
from diffusers_sr.training.trainable import load_frozen_base


@dataclass(kw_only=True)
class CasSRAdversarialArguments(AdversarialArguments, HubArguments):
    """Options for training ControlNet and attention on the picture of a single step."""

    pretrained_model_name_or_path: str = option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion: a folder or a Hub id."
    )
    cassr: str = field(metadata={"help": "Output folder of train_cassr.py."})
    scedit: str = field(metadata={"help": "Output folder of train_scedit_adversarial.py."})


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(CasSRAdversarialArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    denoiser = TrainableCasSR(
        base,
        load_pretrained(ControlNetModel, arguments.cassr, "controlnet"),
        load_pretrained(CasSRAdapter, arguments.cassr, "adapter"),
        load_pretrained(SCEditAdapter, arguments.scedit, "activation"),
        arguments.null_text_ratio,
    )
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    scheduler = start_scheduler(base.scheduler, arguments)
    loss = AdversarialLoss.from_arguments(denoiser, scheduler, arguments)
    call = {"process_size": arguments.resolution, "activation_guidance_scale": 1.0}
    train_one_step_pipeline(loss, crops_and_pairs(arguments), arguments, CasSRPipeline, scheduler, **call)


if __name__ == "__main__":
    run_script(main)
