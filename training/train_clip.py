"""Train a small CLIP vision tower on tagged photographs, to match the text tower of a small base.

    accelerate launch training/train_clip.py --config training/recipes/clip_small.yaml \
        --train_data_dir PHOTOS --pretrained_model_name_or_path runs/base --output_dir runs/clip

train_cognitive_encoder.py and find_references.py take the output folder as --clip. CoSeR itself uses OpenCLIP's
ViT-H/14 there, which needs no training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from diffusers_sr.coser.cognition import normalise_for_clip
from diffusers_sr.image.pixels import resize
from diffusers_sr.texts import token_ids
from diffusers_sr.training.arguments import TrainingArguments, option, parse_arguments
from diffusers_sr.training.engine import train
from diffusers_sr.training.last_line import next_stage
from diffusers_sr.training.photos import photo_crops
from diffusers_sr.training.ranges import Count
from diffusers_sr.training.script import run_script
from diffusers_sr.training.text import TextArguments
from diffusers_sr.training.trainable import load_frozen_base


@dataclass(kw_only=True)
class CLIPArguments(TrainingArguments, TextArguments):
    """Options for a vision tower, trained contrastively with the tags of the photos."""

    pretrained_model_name_or_path: str = field(
        metadata={"help": "Stable Diffusion whose text encoder is the text tower: a folder or a Hub id."}
    )
    image_size: Count = option(96, "Side of the vision tower's square input.")
    patch_size: Count = option(12, "Side of a patch, in pixels.")
    hidden_size: Count = option(128, "Channels of the tokens.")
    intermediate_size: Count = option(384, "Channels inside a feed-forward layer.")
    num_hidden_layers: Count = option(3, "Number of layers.")
    num_attention_heads: Count = option(4, "Number of attention heads.")
    projection_dim: Count = option(64, "Channels of the image tokens.")


class CLIPLoss(nn.Module):
    """CLIP's contrastive loss of `target` and its tags."""

    def __init__(self, clip: CLIPModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = batch["target"]
        size = self.clip.config.vision_config.image_size
        return {
            "contrastive": self.clip(
                input_ids=token_ids(batch["tags"], self.tokenizer).to(image.device),
                pixel_values=normalise_for_clip(resize(image, (size, size))),
                return_loss=True,
            ).loss
        }


def build_clip(arguments: CLIPArguments, text_encoder: CLIPTextModel) -> CLIPModel:
    """Make a CLIP with a new vision tower, and with `text_encoder`, frozen, as its text tower."""
    names = (
        "image_size",
        "patch_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    )
    vision = {name: getattr(arguments, name) for name in names} | {"projection_dim": arguments.projection_dim}
    clip = CLIPModel(
        CLIPConfig(
            text_config=text_encoder.config.to_dict(), vision_config=vision, projection_dim=arguments.projection_dim
        )
    )
    clip.text_model.load_state_dict(text_encoder.state_dict())
    clip.text_model.requires_grad_(False)
    return clip


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(CLIPArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    clip = build_clip(arguments, base.text_encoder)
    if arguments.gradient_checkpointing:
        clip.gradient_checkpointing_enable()
    dataset = photo_crops(arguments)

    def save(output_dir: Path) -> None:
        vision = CLIPVisionModelWithProjection(clip.config.vision_config)
        vision.load_state_dict({key: clip.state_dict()[key] for key in vision.state_dict()})
        vision.save_pretrained(output_dir)

    last_line = next_stage(arguments.output_dir, "find_references", "--clip")
    train(CLIPLoss(clip, base.tokenizer), dataset, arguments, save, last_line=last_line)


if __name__ == "__main__":
    run_script(main)
