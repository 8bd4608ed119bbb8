"""Train the first of PiSA-SR's two LoRA sets (arXiv:2412.03017, section 3.3), which removes the damage.

    accelerate launch training/train_pisa_pixel.py --config training/recipes/pisa_pixel_24gb.yaml \
        --train_shards_path_or_url shards --output_dir runs/pisa_pixel

The set `pixel` is trained by the mean squared error of the pixels. In the official code this stage is the first
`pix_steps` of the same run; here a stage is a script, and train_pisa.py continues from its result. The output folder
is a `OneStepPipeline` with this set alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diffusers_sr.one_step.lora import LoraSets
from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.one_step.prediction import PIXEL
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.lora import ALPHA, new_set
from diffusers_sr.training.one_step import OneStepArguments, OneStepLoss, TrainableOneStep, one_step_scheduler_of
from diffusers_sr.training.one_step_run import train_one_step
from diffusers_sr.training.ranges import Count
from diffusers_sr.training.script import run_script
from diffusers_sr.training.trainable import load_frozen_base


@dataclass(kw_only=True)
class PiSAPixelArguments(OneStepArguments):
    """Options for the pixel LoRA; defaults are the official script's."""

    lora_rank: Count = option(4, "Rank of the LoRA.")


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(PiSAPixelArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    call = {"process_size": arguments.resolution}
    denoiser = TrainableOneStep(
        base,
        one_step_scheduler_of(base.scheduler, timestep=1, prediction="residual"),
        OneStepPipeline.paper,
        LoraSets.from_state_dicts({PIXEL: (new_set(base.unet, arguments.lora_rank), ALPHA)}),
        (PIXEL,),
        arguments.null_text_ratio,
        call,
        arguments.pretrained_model_name_or_path,
    )
    train_one_step(OneStepLoss(denoiser), arguments, call)


if __name__ == "__main__":
    run_script(main)
