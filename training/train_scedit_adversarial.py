"""Fine-tune a trained image activation for one step (`diffusers_sr.training.adversarial`).

    accelerate launch training/train_scedit_adversarial.py --train_data_dir PHOTOS \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --scedit runs/scedit \
        --output_dir runs/scedit_adversarial

The output folder holds the same as that of train_scedit.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.training.adversarial import AdversarialArguments, AdversarialLoss, start_scheduler
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.cassr import TrainableSCEdit
from diffusers_sr.training.engine import train
from diffusers_sr.training.last_line import next_stage
from diffusers_sr.training.pairs import crops_and_pairs
from diffusers_sr.training.script import run_script
from diffusers_sr.training.trainable import load_frozen_base


@dataclass(kw_only=True)
class SCEditAdversarialArguments(AdversarialArguments):
    """Options for training the tuners on the picture of a single step."""

    pretrained_model_name_or_path: str = option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion: a folder or a Hub id."
    )
    scedit: str = field(metadata={"help": "Output folder of train_scedit.py."})


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(SCEditAdversarialArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    activation = load_pretrained(SCEditAdapter, arguments.scedit, "activation")
    denoiser = TrainableSCEdit(base, activation, arguments.null_text_ratio)
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    scheduler = start_scheduler(base.scheduler, arguments)
    loss = AdversarialLoss.from_arguments(denoiser, scheduler, arguments)
    last_line = next_stage(arguments.output_dir, "train_cassr_adversarial", "--scedit")
    train(loss, crops_and_pairs(arguments), arguments, denoiser.save, last_line=last_line)


if __name__ == "__main__":
    run_script(main)
