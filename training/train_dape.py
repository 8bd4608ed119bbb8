"""Train SeeSR's degradation-aware prompt extractor (paper, section 3.2): a tagger's LoRA on degraded images.

    accelerate launch training/train_dape.py --train_data_dir PHOTOS --tagger TAGGER_FOLDER --output_dir runs/dape

The teacher is the frozen tagger on the clean image, the student the same tagger with a LoRA on the degraded one. The
LoRA is merged before saving: the result is a plain tagger folder.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_sr.data.degradation_mixture import DEGRADATIONS, at_low_resolution
from diffusers_sr.image.pixels import resize
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.seesr.tagger import Tagger, dape_lora_config, merge_lora
from diffusers_sr.training.arguments import DegradationArguments, option, parse_arguments
from diffusers_sr.training.engine import train
from diffusers_sr.training.last_line import next_stage
from diffusers_sr.training.photos import photo_crops
from diffusers_sr.training.ranges import Count, Weight
from diffusers_sr.training.script import run_script


@dataclass(kw_only=True)
class DAPEArguments(DegradationArguments):
    """Options for distilling a clean-image tagger into its LoRA on degraded images; defaults are the official ones."""

    tagger: str = field(metadata={"help": "Folder of the tagger that is the teacher and the starting point."})
    train_batch_size: Count = option(8, "Samples per process and batch.")
    learning_rate: Weight = option(1e-4, "Peak learning rate of AdamW.")
    adam_weight_decay: Weight = option(0.0, "AdamW weight decay.")
    max_train_steps: Count = option(
        20_000, "Optimiser steps (the paper's number; the official options run to 300,000)."
    )
    logits_weight: Weight = option(1.0, "Weight of the loss on the logits.")


class DAPELoss(nn.Module):
    """The mean squared error of the representations plus cross-entropy with the teacher's probabilities as targets."""

    def __init__(self, teacher: Tagger, student: Tagger, logits_weight: float):
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        self.student = student
        self.logits_weight = logits_weight

    def train(self, mode: bool = True) -> DAPELoss:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        target = batch["target"]
        with torch.no_grad():
            clean = self.teacher(self.teacher.preprocess(target))
        degraded = self.student(self.student.preprocess(resize(batch["degraded"], target.shape[-2:])))
        # The official code takes logarithms of probabilities, which overflow when saturated; this is the same loss.
        cross_entropy = nn.functional.binary_cross_entropy_with_logits(
            degraded.logits.float(), clean.logits.float().sigmoid()
        )
        return {
            "representation": nn.functional.mse_loss(degraded.representation.float(), clean.representation.float()),
            "logits": self.logits_weight * cross_entropy,
        }


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(DAPEArguments, argv)
    torch.manual_seed(arguments.seed)
    student = load_pretrained(Tagger, arguments.tagger)
    teacher = copy.deepcopy(student)
    student.add_adapter(dape_lora_config(student))
    if arguments.gradient_checkpointing:
        student.enable_gradient_checkpointing()
    dataset = photo_crops(arguments, degradation=at_low_resolution(DEGRADATIONS[arguments.degradation]))

    def save(output_dir: Path) -> None:
        merge_lora(student.to("cpu").eval()).save_pretrained(output_dir)

    last_line = next_stage(arguments.output_dir, "train_seesr", "--tagger")
    train(DAPELoss(teacher, student, arguments.logits_weight), dataset, arguments, save, last_line=last_line)


if __name__ == "__main__":
    run_script(main)
