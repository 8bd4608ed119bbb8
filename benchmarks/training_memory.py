"""The memory a training step needs at its peak, for recipes at Stable Diffusion's size.

    python benchmarks/training_memory.py [--recipes seesr_24gb coser_24gb ...] [--frozen_weights_dtype bf16]

On a machine with CUDA a step is run on random weights, and `torch.cuda.max_memory_allocated` is shown. On any other
the memory is computed: the same step, of the trainer's own modules, runs on tensors that have shapes and types but no
data (`FakeTensorMode`), and each of their storages is counted from its creation until it is freed. The lists of
operations that CUDA's autocast runs in float32, which decide the type of activations on a GPU, are imitated.

The weights include those of RAM and CLIP where a method needs them. The figures, computed or measured, do not include
what the allocator holds but does not use, the CUDA context, and the buffers of distributed data parallelism. Computed
figures do not include what single operations use internally either, such as the workspaces of convolutions and CoSeR's
search for the most similar key. Leave a gibibyte or two for that.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from diffusers_sr.training.arguments import TrainingArguments
from diffusers_sr.training.engine import trainable_parameters
from diffusers_sr.training.frozen_weights import store_in_bf16

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that a script finds its neighbours too

from benchmarks.full_size import build, synthetic_batch
from benchmarks.recipes import STAGES, TRAINING, read_recipe
from benchmarks.storages import AdamW8bitState, Storages, cuda_lists

GIB = 2**30


@dataclass
class Memory:
    """The bytes at the peak of a training step, and what they consist of.

    `activations` is the rest: activations, what operations need at the same time, and gradients in transit.
    """

    frozen: int
    trained: int
    gradients: int
    optimizer: int
    average: int
    peak: int

    @property
    def activations(self) -> int:
        return self.peak - self.frozen - self.trained - self.gradients - self.optimizer - self.average


def built(stage: str, arguments: Any) -> nn.Module:
    """Build the stage's module, its frozen weights as the options say."""
    module = build(stage, arguments)
    if arguments.frozen_weights_dtype == "bf16":
        store_in_bf16(module)
    return module


class Computed:
    """A place where a step runs on tensors without data."""

    def __init__(self) -> None:
        self.fake_tensors = FakeTensorMode(allow_non_fake_inputs=True)
        self.storages = Storages()

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.fake_tensors, self.storages, cuda_lists():
            yield

    def build(self, stage: str, arguments: Any) -> nn.Module:
        """Build the stage's module in place."""
        with torch.device("meta"):
            module = built(stage, arguments)
        return self.place(module)

    def place(self, module: nn.Module) -> nn.Module:
        """Place a module whose tensors are on "meta"."""
        with self.fake_tensors:
            module.to_empty(device="cpu")
        self.storages.count([*module.parameters(), *module.buffers()])
        return module

    def place_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Replace the pictures by tensors without data; the rest, which the trainer's decisions depend on, stays."""
        pictures = {
            name: self.fake_tensors.from_tensor(batch[name]) for name in ("target", "reference") & batch.keys()
        }
        self.storages.count(pictures)
        return {**batch, **pictures}

    def optimizer(self, parameters: list[nn.Parameter], use_8bit_adam: bool) -> Any:
        return AdamW8bitState(parameters) if use_8bit_adam else torch.optim.AdamW(parameters, foreach=True)

    def autocast(self, mixed_precision: str | None) -> Any:
        # The sizes are the same with fp16.
        enabled = mixed_precision in ("bf16", "fp16")
        return torch.autocast("cpu", torch.bfloat16, enabled=enabled)

    def current(self) -> int:
        return self.storages.current

    def peak(self) -> int:
        return self.storages.peak

    def reset_peak(self) -> None:
        self.storages.peak = self.storages.current


class Measured:
    """A place where a step runs on the first CUDA device."""

    running = staticmethod(nullcontext)
    current = staticmethod(torch.cuda.memory_allocated)
    peak = staticmethod(torch.cuda.max_memory_allocated)
    reset_peak = staticmethod(torch.cuda.reset_peak_memory_stats)

    def build(self, stage: str, arguments: Any) -> nn.Module:
        with torch.device("cuda"):
            return built(stage, arguments)

    def place_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        return send_to_device(batch, "cuda")

    def optimizer(self, parameters: list[nn.Parameter], use_8bit_adam: bool) -> Any:
        if use_8bit_adam:
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit(parameters)
        return torch.optim.AdamW(parameters)

    def autocast(self, mixed_precision: str | None) -> Any:
        types = {"bf16": torch.bfloat16, "fp16": torch.float16}
        return torch.autocast("cuda", types.get(str(mixed_precision)), enabled=mixed_precision in types)


def step_memory(
    place: Computed | Measured, module: nn.Module, batch: dict[str, Any], arguments: TrainingArguments
) -> Memory:
    """Measure the memory of one optimiser step of the trainer, with the optimiser's state.

    Where batches are accumulated, the gradients of earlier batches are included.

    Args:
        place: where the step runs.
        module: the module that `place` built.
        batch: a batch by `synthetic_batch`.
        arguments: the trainer's options.
    """
    module.train()
    parameters = [*trainable_parameters(module).values()]
    trained = _bytes(parameters)
    frozen = _bytes([*module.parameters(), *module.buffers()]) - trained
    batch = place.place_batch(batch)
    with place.running():
        before = place.current()
        average = EMAModel(parameters, decay=arguments.ema_decay) if arguments.ema_decay else None
        average_bytes = place.current() - before
        optimizer = place.optimizer(parameters, arguments.use_8bit_adam)
        _set_gradients(parameters, torch.zeros_like)
        optimizer.step()  # this creates its state
        _set_gradients(parameters, None)
        optimizer_bytes = place.current() - before - average_bytes
        place.reset_peak()
        for _ in range(min(arguments.gradient_accumulation_steps, 2)):
            with place.autocast(arguments.mixed_precision):
                loss = torch.stack([*module(batch).values()]).sum()
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, arguments.max_grad_norm)
        optimizer.step()
        if average is not None:
            average.step(parameters)
        peak = place.peak()
    return Memory(frozen, trained, trained, optimizer_bytes, average_bytes, peak)


def _set_gradients(parameters: list[nn.Parameter], make: Callable[[Tensor], Tensor] | None) -> None:
    for parameter in parameters:
        parameter.grad = None if make is None else make(parameter)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--recipes", nargs="+", default=[f"{stage}_24gb" for stage in STAGES], help="names of recipes (%(default)s)"
    )
    parser.add_argument(
        "--frozen_weights_dtype", choices=("fp32", "bf16"), default="fp32", help="of the frozen weights (%(default)s)"
    )
    parser.add_argument("--train_batch_size", type=int, help="batch size instead of the recipe's")
    options = parser.parse_args(argv)
    kind = Measured if torch.cuda.is_available() else Computed
    how = torch.cuda.get_device_name() if kind is Measured else "without a GPU, not measured"
    print(f'GiB at the peak of a training step, {kind.__name__.lower()} ({how}); "rest" is activations')
    columns = ("frozen", "trained", "gradients", "optimizer", "average", "activations", "peak")
    print("| recipe | batch | frozen weights | trained weights | gradients | optimiser | EMA | rest | peak |")
    print("|---|" + "---:|" * (len(columns) + 1))
    for name in options.recipes:
        stage, arguments = read_recipe(TRAINING / "recipes" / f"{name}.yaml")
        arguments.frozen_weights_dtype = options.frozen_weights_dtype
        arguments.train_batch_size = options.train_batch_size or arguments.train_batch_size
        place = kind()
        memory = step_memory(place, place.build(stage, arguments), synthetic_batch(arguments), arguments)
        gc.collect()  # the models, before the next ones
        sizes = " | ".join(f"{getattr(memory, column) / GIB:.2f}" for column in columns)
        print(f"| {name} | {arguments.train_batch_size} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
