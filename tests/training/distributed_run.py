"""Run as two processes by test_distributed.py: `python tests/training/distributed_run.py FOLDER`.

Each process writes what it saw to FOLDER/rank-<number>.json, and the weights it ended with beside it.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL.Image import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.training.adversarial import AdversarialLoss
from diffusers_sr.training.arguments import TrainingArguments
from diffusers_sr.training.descriptions import write_descriptions
from diffusers_sr.training.engine import train, trainable_parameters
from diffusers_sr.training.losses import DenoisingLoss
from tests.components import components, randomise, scheduler, tiny_image, tiny_unet
from tests.training.interruptions import disk_full_between, sigterm_at
from tests.training.runs import Fit, fit, reset_accelerate, script
from tests.training.stages import base_of, coser, seesr

BASE = "--pretrained_model_name_or_path"
FIT: dict[str, Any] = {
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
    "ema_decay": 0.9,
    "gradient_accumulation_steps": 2,
}
_groups = count()
# CoSeR's ControlNet is no part of what the UNet adds up; the one-step loss has a discriminator.
MODULES: dict[str, Callable[[], DenoisingLoss | AdversarialLoss]] = {
    "seesr": lambda: DenoisingLoss(seesr(), scheduler()),
    "coser": lambda: DenoisingLoss(coser(), scheduler()),
    "one_step": lambda: AdversarialLoss(seesr(), scheduler(), 0.1, 0.1, 0.01),
}


class Crops(Dataset[dict[str, Any]]):
    """Small noise in the shape of degraded photographs."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        target = torch.rand((3, 32, 32), generator=generator)
        return {
            "target": target,
            "degraded": target[:, ::4, ::4],
            "reference": target.flip(-1),
            "tags": "cat, sky",
            "seed": torch.tensor(index),
        }


class InfiniteLoss(Fit):
    """One batch of it has an infinite loss."""

    def __init__(self, number: int) -> None:
        super().__init__(dropout=0)
        self.number = number

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        is_infinite = len(self.batches) == self.number
        return {name: loss + (math.inf if is_infinite else 0) for name, loss in super().forward(batch).items()}


def train_stage(folder: Path, kind: str, batch_size: int) -> dict[str, Tensor]:
    """Weights of everything that trains, by name, after three steps of `batch_size` samples for each process."""
    torch.manual_seed(0)
    module = MODULES[kind]()
    module.denoiser.enable_gradient_checkpointing()
    reset_accelerate()
    # A large epsilon: else AdamW's first steps are the gradients' signs, which rounding decides where they are small.
    arguments = TrainingArguments(
        train_data_dir="unused",
        output_dir=str(folder),
        max_train_steps=3,
        train_batch_size=batch_size,
        learning_rate=1e-2,
        adam_epsilon=1e-2,
    )
    train(module, Crops(), arguments, lambda to: None)
    return {name: parameter.detach() for name, parameter in trainable_parameters(module).items()}


def make_references(folder: Path, made: list[int]) -> None:
    """Run training/make_references.py, and note in `made` the references this process made."""
    stage = script("make_references")
    write_image = stage.write_image

    def write(path: Path, image: Tensor) -> None:
        made.append(int(path.stem))
        write_image(path, image)

    stage.write_image = write
    stage.main(
        ["--train_data_dir", str(folder / "photos"), "--output_dir", str(folder / "made"), "--num_samples", "5",
         BASE, str(folder / "base"), "--scedit", str(folder / "scedit"), "--batch_size", "2", "--steps", "1",
         "--resolution", "32"]
    )  # fmt: skip


def describe(folder: Path, rank: int) -> None:
    """Describe five images by the number of the process that did it."""
    write_descriptions(
        folder / "described" / "table.csv",
        ("tags",),
        {},
        [*"abcde"],
        lambda number: torch.zeros(3, 1, 1),
        lambda device: lambda names, images: [[(f"process {rank}",)] for _ in names],
        batch_size=2,
    )


def prepare(folder: Path) -> None:
    """Write what make_references.py reads."""
    (folder / "photos").mkdir(parents=True)
    for index in range(2):
        tiny_image(40, 40, seed=index).save(folder / "photos" / f"{index}.png")
    base_of(components("seesr")).save_pretrained(folder / "base")
    activation = randomise(SCEditAdapter.from_host(tiny_unet(), hint_channels=(4, 8, 8, 8)))
    activation.save_pretrained(folder / "scedit" / "activation")


def join(folder: Path) -> None:
    """A new group of processes: a run ends with leaving its own, and torchrun's addresses are good for one."""
    rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    number = next(_groups)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/group-{number}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    seen: dict[str, Any] = {}

    join(folder)
    enlarged: list[int] = []

    def enlarge(images: Sequence[Image]) -> list[Image]:
        enlarged.extend(image.width for image in images)
        return [*images]

    options = {**FIT, "validation_images": str(folder / "photos")}
    ended = fit(folder / "fit", Fit(dropout=0), validate=enlarge, train_batch_size=2, **options).state_dict()
    seen["enlarged"] = enlarged
    weights = {f"fit.{name}": value for name, value in ended.items()}
    seen["num_processes"] = PartialState().num_processes
    for kind in MODULES:
        join(folder)
        ended = train_stage(folder / kind, kind, batch_size=1)
        weights |= {f"{kind}.{name}": value for name, value in ended.items()}

    # Only the second process gets SIGTERM, in the middle of accumulation.
    join(folder)
    whole = fit(folder / "whole", train_batch_size=2, **FIT)
    interrupted = Fit(sigterm_at(10 if rank == 1 else -1))
    join(folder)
    try:
        fit(folder / "parts", interrupted, train_batch_size=2, **FIT)
    except SystemExit as caught:
        seen["exit"] = caught.code
    join(folder)
    resumed = fit(folder / "parts", train_batch_size=2, resume_from_checkpoint="latest", **FIT)
    seen["batches"] = whole.batches
    seen["batches_in_parts"] = interrupted.batches[:10] + resumed.batches

    # Only the second process meets a full disk.
    join(folder)
    full = Fit(disk_full_between(3, 4) if rank == 1 else lambda number: None)
    fit(folder / "full", full, train_batch_size=2, checkpointing_steps=2, checkpoints_total_limit=9)

    # Only the second process has a loss that is not finite, whose gradient is.
    join(folder)
    left_out = fit(folder / "left_out", InfiniteLoss(3 if rank == 1 else -1), skip_nonfinite=1, **FIT)
    weights |= {f"left_out.{name}": value for name, value in left_out.state_dict().items()}

    join(folder)
    reset_accelerate()
    seen["made"] = []
    make_references(folder, seen["made"])

    join(folder)
    reset_accelerate()
    describe(folder, rank)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / f"rank-{rank}.safetensors")
    (folder / f"rank-{rank}.json").write_text(json.dumps(seen))


def start(folder: Path, size: int) -> int:
    """Start processes with the variables that torchrun gives them, as forks of this one, which has imported all.

    Returns:
        The first exit status that is not 0, or 0.
    """
    gc.freeze()
    processes = []
    for rank in range(size):
        process = os.fork()
        if process == 0:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            os.environ.update({name: str(value) for name, value in names.items()})
            faulthandler.dump_traceback_later(240, exit=True)  # processes that wait for each other say where
            main(folder)
            return 0
        processes.append(process)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(start(Path(sys.argv[1]), 2))
