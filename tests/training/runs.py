"""Helpers of the tests of training: the scripts, and a run that takes milliseconds, a line fitted to points."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from diffusers_sr.training.arguments import TrainingArguments
from diffusers_sr.training.engine import train
from diffusers_sr.training.losses import draw_noise
from diffusers_sr.training.validation import Enlarge

TRAINING = Path(__file__).parents[2] / "training"


def script(stage: str) -> Any:
    """A training script as a module."""
    spec = importlib.util.spec_from_file_location(stage, TRAINING / f"{stage}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[stage] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def write_noise_photos(folder: Path, count: int, side: int) -> None:
    """Square PNGs of noise, 0.png, 1.png, ..."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


class Points(Dataset[dict[str, Tensor]]):
    """Points of the line y = 2x, with the seed each sample draws from."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x = torch.randn(3, generator=torch.Generator().manual_seed(index))
        return {"x": x, "y": 2 * x, "seed": torch.tensor(index)}


class Fit(nn.Module):
    """One layer that trains behind one that is frozen; dropout draws from the global generator.

    Args:
        before_batch: called with the number of batches this run has seen.
    """

    def __init__(self, before_batch: Callable[[int], object] = lambda number: None, dropout: float = 0.1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.frozen = nn.Linear(3, 3).requires_grad_(False)
            self.layer = nn.Linear(3, 3)
        self.dropout = nn.Dropout(dropout)
        self.before_batch = before_batch
        self.batches: list[list[int]] = []

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.before_batch(len(self.batches))
        self.batches.append(batch["seed"].tolist())
        target = batch["y"] + 0.01 * draw_noise(batch["seed"], (3,), batch["x"].device)
        return {"mse": (self.layer(self.dropout(self.frozen(batch["x"]))).float() - target).square().mean()}


def reset_accelerate() -> None:
    """Forget the precision, the processes and the accumulation of the run before, which accelerate keeps for good."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def fit(
    output_dir: Path,
    module: Fit | None = None,
    save: Callable[[Path], None] | None = None,
    validate: Enlarge | None = None,
    publish: Callable[[Path], None] | None = None,
    **options: Any,
) -> Fit:
    """Train for eight steps, with a checkpoint every four, unless `options` of `TrainingArguments` say otherwise."""
    defaults: dict[str, Any] = {
        "max_train_steps": 8,
        "train_batch_size": 4,
        "learning_rate": 0.05,
        "checkpointing_steps": 4,
        "seed": 1,
    }
    arguments = TrainingArguments(train_data_dir="unused", output_dir=str(output_dir), **{**defaults, **options})
    module = module or Fit()
    reset_accelerate()
    save = save or (lambda folder: torch.save(module.layer.state_dict(), folder / "layer.pt"))
    train(module, Points(), arguments, save, validate, publish)
    return module
