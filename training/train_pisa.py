"""Train the second of PiSA-SR's two LoRA sets (arXiv:2412.03017, section 3.3), which adds detail, and so finish it.

    accelerate launch training/train_pisa.py --config training/recipes/pisa_24gb.yaml \
        --train_shards_path_or_url shards --pixel runs/pisa_pixel --output_dir runs/pisa

The first stage is train_pisa_pixel.py. Here both sets are active, the set `pixel` is frozen, and the set `semantic` is
trained by the mean squared error of the pixels, LPIPS on VGG, and classifier score distillation on the latents. The
official code gives the frozen set gradients of zero, with which AdamW still moves it by what is left of its momentum
and by weight decay; here it stays as it is.

LPIPS needs the package `lpips`: without it the script ends before the training. The output folder is a
`OneStepPipeline`, as `diffusers-sr convert pisa` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from diffusers_sr.one_step.lora import LoraSets
from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.one_step.prediction import PIXEL, SEMANTIC
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.distillation import ClassifierScoreDistillation, GuidedTeacher
from diffusers_sr.training.lora import ALPHA, new_set
from diffusers_sr.training.one_step import OneStepArguments, OneStepLoss, TrainableOneStep, one_step_scheduler_of
from diffusers_sr.training.one_step_run import train_one_step
from diffusers_sr.training.perceptual import load_lpips
from diffusers_sr.training.ranges import Count, CountFromZero, Weight
from diffusers_sr.training.script import run_script
from diffusers_sr.training.trainable import load_frozen_base

NEGATIVE_PROMPT = (
    "painting, oil painting, illustration, drawing, art, sketch, oil painting, cartoon, CG Style, 3D render, unreal "
    "engine, blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, "
    "deformed, lowres, over-smooth"
)


@dataclass(kw_only=True)
class PiSAArguments(OneStepArguments):
    """Options for the semantic LoRA; defaults are the official script's."""

    pixel: str = field(metadata={"help": "Output folder of train_pisa_pixel.py, or any with its LoRA set."})
    lora_rank: Count = option(4, "Rank of the LoRA.")
    l2_weight: Weight = option(1.0, "Weight of the mean squared error of the pixels, which are in [-1, 1].")
    lpips_weight: Weight = option(2.0, "Weight of LPIPS; with 0 the package lpips is not needed.")
    csd_weight: Weight = option(1.0, "Weight of classifier score distillation.")
    csd_guidance_scale: Weight = option(7.5, "Guidance of the frozen Stable Diffusion that it is distilled from.")
    csd_first_timestep: CountFromZero = option(20, "First timestep that it draws.")
    csd_end_timestep: Count = option(500, "Timestep before which it stops.")
    csd_negative_prompt: str = option(NEGATIVE_PROMPT, "What the guidance leads away from.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.csd_first_timestep >= self.csd_end_timestep:
            raise ValueError(
                f"csd_first_timestep={self.csd_first_timestep}: it has to be below csd_end_timestep="
                f"{self.csd_end_timestep}."
            )


def both_sets(pixel: LoraSets, semantic: dict[str, torch.Tensor], folder: str) -> LoraSets:
    """Join the pixel set of the first stage and a new semantic set."""
    if PIXEL not in pixel.names:
        raise ValueError(f"--pixel {folder}: it has the LoRA sets {pixel.names}, but {PIXEL!r} is needed.")
    alpha = pixel.config.sets[PIXEL]["alpha"]
    return LoraSets.from_state_dicts({PIXEL: (pixel.lora_state_dict(PIXEL), alpha), SEMANTIC: (semantic, ALPHA)})


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(PiSAArguments, argv)
    torch.manual_seed(arguments.seed)
    perceptual = load_lpips() if arguments.lpips_weight else None
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    pixel = load_pretrained(LoraSets, arguments.pixel, "lora")
    distillation = None
    if arguments.csd_weight:
        teacher = GuidedTeacher.from_base(base, arguments.csd_negative_prompt, arguments.csd_guidance_scale)
        timesteps = (arguments.csd_first_timestep, arguments.csd_end_timestep)
        distillation = ClassifierScoreDistillation(teacher, timesteps, arguments.csd_weight)
    call = {"process_size": arguments.resolution}
    denoiser = TrainableOneStep(
        base,
        one_step_scheduler_of(base.scheduler, timestep=1, prediction="residual"),
        OneStepPipeline.paper,
        both_sets(pixel, new_set(base.unet, arguments.lora_rank), arguments.pixel),
        (SEMANTIC,),
        arguments.null_text_ratio,
        call,
        arguments.pretrained_model_name_or_path,
    )
    loss = OneStepLoss(
        denoiser,
        l2_weight=arguments.l2_weight,
        perceptual=perceptual,
        perceptual_weight=arguments.lpips_weight,
        distillation=distillation,
    )
    train_one_step(loss, arguments, call)


if __name__ == "__main__":
    run_script(main)
