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
from typing import Annotated, Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.utils.data import Dataset
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusers_sr.data.degradation_mixture import DEGRADATIONS
from diffusers_sr.data.tags import read_tags
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.sampling.autoencoder import pixels_per_latent
from diffusers_sr.seesr.pipeline import QUALITY_PROMPT, SeeSRPipeline
from diffusers_sr.training.adversarial import AdversarialLoss
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.autoencoders import load_autoencoder
from diffusers_sr.training.comparisons import ComparisonArguments, comparisons
from diffusers_sr.training.engine import train
from diffusers_sr.training.last_line import next_stage
from diffusers_sr.training.pairs import PairsArguments, crops_and_pairs
from diffusers_sr.training.photos import photo_crops
from diffusers_sr.training.ranges import Count, OneOf, Share, Weight
from diffusers_sr.training.restoration import BaseLoss, TrainableBase
from diffusers_sr.training.schedules import first_timesteps
from diffusers_sr.training.script import run_script
from diffusers_sr.training.text import TextArguments
from diffusers_sr.training.unets import begin_as, new_unet, predict_times

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


@dataclass(kw_only=True)
class BaseArguments(PairsArguments, TextArguments, ComparisonArguments):
    """Options for UNet and text encoder from scratch, on captioned photographs, with a given autoencoder.

    Those of degraded photos, pairs and comparisons are of use with `restoration_timesteps` only.
    """

    vae: str = field(metadata={"help": "Folder of the trained AutoencoderKL or AutoencoderDC."})
    null_text_ratio: Share = option(0.2, "Share of samples whose caption is left out.")
    block_out_channels: list[Count] = field(
        default_factory=lambda: [64, 96, 128],
        metadata={"help": "UNet channels of each level."},
    )
    layers_per_block: Count = option(2, "Residual layers in each level.")
    attention_levels: Count = option(1, "How many of the last levels have attention.")
    unet_model_name_or_path: str | None = option(
        None,
        "Folder of a UNet of the same levels to begin with, or of a pipeline that has one; the layers that it lacks, "
        "such as attention, add nothing at first.",
    )
    unet_factor: Weight = option(
        1.0,
        "Factor on that UNet's prediction, to begin with: one of train_one_step.py predicts the difference to the "
        "restored latents, which is the noise of a timestep times its standard deviation.",
    )
    attention_head_dim: Count = option(32, "Channels of an attention head.")
    text_hidden_size: Count = option(64, "Width of the text encoder.")
    text_num_layers: Count = option(2, "Layers of the text encoder.")
    vocabulary_size: Count = option(1024, "Size of the byte-pair vocabulary learnt from the captions.")
    sharpen_target: bool = option(False, "Train towards USM-sharpened photos.")
    degradation: Annotated[str, OneOf(tuple(DEGRADATIONS))] = option("everyday", "How photos are degraded.")
    restoration_timesteps: Count | None = option(
        None,
        "Teach the UNet to restore degraded photos, too, in one step from the last of so many first timesteps: where "
        "the methods' one-step trainers start with the same --num_train_timesteps.",
    )
    restoration_ratio: Share = option(0.7, "Share of batches that are restored.")
    latent_weight: Weight = option(0.1, "Weight of the restored latents' absolute error relative to the pixels'.")
    prediction_type: str = option("v_prediction", "What the UNet predicts: epsilon or v_prediction.")


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
        arguments.attention_levels,
    )
    if arguments.unet_model_name_or_path is not None:
        begin_as(unet, load_pretrained(UNet2DConditionModel, arguments.unet_model_name_or_path, "unet"))
        predict_times(unet, arguments.unet_factor)
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
    base = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    denoiser = TrainableBase(base, arguments.null_text_ratio)
    restoration = None
    if arguments.restoration_timesteps is None:
        dataset: Dataset[Any] = photo_crops(arguments)
    else:
        dataset = crops_and_pairs(arguments)
        restoration = AdversarialLoss(
            denoiser,
            first_timesteps(scheduler, arguments.restoration_timesteps),
            arguments.latent_weight,
            feature_weight=0,
            adversarial_weight=0,
            comparisons=comparisons(arguments, pixels_per_latent(vae)),
        )

    def save(output_dir: Path) -> None:
        denoiser.to("cpu").eval()
        base.save_pretrained(output_dir)

    module = BaseLoss(denoiser, scheduler, restoration, arguments.restoration_ratio)
    last_line = next_stage(arguments.output_dir, "train_seesr", "--pretrained_model_name_or_path")
    train(module, dataset, arguments, save, last_line=last_line)


if __name__ == "__main__":
    run_script(main)
