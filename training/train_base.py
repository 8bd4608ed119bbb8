"""Train a small Stable-Diffusion-shaped text-to-image base: UNet, CLIP text encoder and its tokenizer.

    accelerate launch training/train_base.py --config training/recipes/base_small.yaml \
        --train_data_dir PHOTOS --vae runs/vae --output_dir runs/base

The result is a stock `StableDiffusionPipeline` folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusers_sr.data.tags import read_tags
from diffusers_sr.seesr.pipeline import QUALITY_PROMPT, SeeSRPipeline
from diffusers_sr.texts import encode_texts
from diffusers_sr.training.arguments import TrainingArguments, option, parse_arguments
from diffusers_sr.training.autoencoders import Autoencoder, load_autoencoder, posterior
from diffusers_sr.training.engine import train
from diffusers_sr.training.losses import denoising_loss, draw_noise, draw_timesteps, drop_texts
from diffusers_sr.training.photos import photo_crops
from diffusers_sr.training.ranges import Count, Share
from diffusers_sr.training.script import run_script
from diffusers_sr.training.text import TextArguments
from diffusers_sr.training.unets import new_unet

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


@dataclass(kw_only=True)
class BaseArguments(TrainingArguments, TextArguments):
    """Options for UNet and text encoder from scratch, on captioned photographs, with a given autoencoder."""

    vae: str = field(metadata={"help": "Folder of the trained AutoencoderKL or AutoencoderDC."})
    null_text_ratio: Share = option(0.2, "Share of samples whose caption is left out.")
    block_out_channels: list[Count] = field(
        default_factory=lambda: [64, 96, 128],
        metadata={"help": "UNet channels of each level; only the last level has attention."},
    )
    layers_per_block: Count = option(2, "Residual layers in each level.")
    attention_head_dim: Count = option(32, "Channels of an attention head.")
    text_hidden_size: Count = option(64, "Width of the text encoder.")
    text_num_layers: Count = option(2, "Layers of the text encoder.")
    vocabulary_size: Count = option(1024, "Size of the byte-pair vocabulary learnt from the captions.")
    prediction_type: str = option("v_prediction", "What the UNet predicts: epsilon or v_prediction.")


class BaseLoss(nn.Module):
    """The loss of denoising the latents of `target` given its caption."""

    def __init__(
        self,
        vae: Autoencoder,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: DDPMScheduler,
        null_text_ratio: float,
    ):
        super().__init__()
        self.vae = vae.requires_grad_(False)
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.unet = unet
        self.scheduler = scheduler
        self.null_text_ratio = null_text_ratio

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        seeds, device = batch["seed"], batch["target"].device
        with torch.no_grad():
            latents = posterior(self.vae, batch["target"] * 2 - 1).mean * self.vae.config.scaling_factor
        latents = latents.float()  # the scheduler computes in the type of its input
        noise = draw_noise(seeds, latents.shape[1:], device)
        timesteps = draw_timesteps(seeds, self.scheduler.config.num_train_timesteps, device)
        captions = drop_texts(seeds, batch["tags"], self.null_text_ratio)
        text = encode_texts(captions, self.tokenizer, self.text_encoder, device)
        prediction = self.unet(self.scheduler.add_noise(latents, noise, timesteps), timesteps, text).sample
        return {"mse": denoising_loss(self.scheduler, prediction, latents, noise, timesteps)}


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> CLIPTokenizer:
    """Train a CLIPTokenizer, whose byte-pair merges are learnt from `texts`; other text is spelt in bytes."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary_size, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [*BYTES, *(byte + "</w>" for byte in BYTES), *("".join(merge) for merge in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=77
    )


def build_text_encoder(tokenizer: CLIPTokenizer, hidden_size: int, num_layers: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=4 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=hidden_size // 32,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=hidden_size,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(BaseArguments, argv)
    torch.manual_seed(arguments.seed)
    # The words of the quality prompts occur in every call, so they deserve tokens of their own.
    negative_prompt = SeeSRPipeline._call_defaults["negative_prompt"]
    tokenizer = train_tokenizer(
        [*read_tags(arguments.tags_file), QUALITY_PROMPT, negative_prompt], arguments.vocabulary_size
    )
    vae = load_autoencoder(arguments.vae)
    text_encoder = build_text_encoder(tokenizer, arguments.text_hidden_size, arguments.text_num_layers)
    unet = new_unet(
        vae,
        arguments.resolution,
        arguments.block_out_channels,
        arguments.layers_per_block,
        arguments.attention_head_dim,
        arguments.text_hidden_size,
    )
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=arguments.prediction_type,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )
    if arguments.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    dataset = photo_crops(arguments)

    def save(output_dir: Path) -> None:
        StableDiffusionPipeline(
            vae=vae.to("cpu"),
            text_encoder=text_encoder.to("cpu").eval(),
            tokenizer=tokenizer,
            unet=unet.to("cpu").eval(),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(output_dir)

    module = BaseLoss(vae, text_encoder, tokenizer, unet, scheduler, arguments.null_text_ratio)
    train(module, dataset, arguments, save)


if __name__ == "__main__":
    run_script(main)
