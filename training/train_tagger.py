"""Train a small tagger from scratch on tagged photographs: the clean teacher that `train_dape.py` starts from.

    accelerate launch training/train_tagger.py --config training/recipes/tagger_small.yaml \
        --train_data_dir PHOTOS --output_dir runs/tagger

SeeSR itself uses RAM (Swin-L) here; `diffusers-sr convert seesr` reads RAM's weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_sr.data.tags import read_tags, split_tags
from diffusers_sr.seesr.tagger import Tagger
from diffusers_sr.training.arguments import TrainingArguments, option, parse_arguments
from diffusers_sr.training.engine import train
from diffusers_sr.training.last_line import next_stage
from diffusers_sr.training.photos import photo_crops
from diffusers_sr.training.ranges import Count, Share
from diffusers_sr.training.script import run_script
from diffusers_sr.training.text import TextArguments


@dataclass(kw_only=True)
class TaggerArguments(TrainingArguments, TextArguments):
    """Options for a tagger, trained with binary cross-entropy on each tag."""

    tags_file: str = field(metadata={"help": "CSV file with the columns file and tags (comma-separated)."})
    threshold: Share = option(0.5, "Probability above which a tag is given; the same for every tag.")
    image_size: Count = option(96, "Side of the tagger's square input.")
    embed_dim: Count = option(48, "Channels of the first Swin stage.")
    depths: list[Count] = field(default_factory=lambda: [2, 2], metadata={"help": "Blocks of each Swin stage."})
    num_heads: list[Count] = field(default_factory=lambda: [3, 6], metadata={"help": "Heads of each Swin stage."})
    window_size: Count = option(6, "Side of an attention window, in tokens.")
    representation_dim: Count = option(64, "Channels of the representation.")
    head_hidden_size: Count = option(64, "Width of the tagging head.")


class TaggerLoss(nn.Module):
    """The binary cross-entropy of the tags of `target`."""

    def __init__(self, tagger: Tagger):
        super().__init__()
        self.tagger = tagger

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = batch["target"]
        logits = self.tagger(self.tagger.preprocess(image)).logits
        given = [set(split_tags(text)) for text in batch["tags"]]
        names = self.tagger.config.tags
        labels = torch.tensor([[name in tags for name in names] for tags in given], device=image.device)
        return {"bce": nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float())}


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(TaggerArguments, argv)
    torch.manual_seed(arguments.seed)
    names = sorted({tag for text in read_tags(arguments.tags_file) for tag in split_tags(text)})
    tagger = Tagger(
        tags=names,
        thresholds=[arguments.threshold] * len(names),
        image_size=arguments.image_size,
        embed_dim=arguments.embed_dim,
        depths=arguments.depths,
        num_heads=arguments.num_heads,
        window_size=arguments.window_size,
        representation_dim=arguments.representation_dim,
        head_hidden_size=arguments.head_hidden_size,
        head_intermediate_size=2 * arguments.head_hidden_size,
    )
    if arguments.gradient_checkpointing:
        tagger.enable_gradient_checkpointing()
    dataset = photo_crops(arguments)

    def save(output_dir: Path) -> None:
        tagger.to("cpu").eval().save_pretrained(output_dir)

    last_line = next_stage(arguments.output_dir, "train_dape", "--tagger")
    train(TaggerLoss(tagger), dataset, arguments, save, last_line=last_line)


if __name__ == "__main__":
    run_script(main)
