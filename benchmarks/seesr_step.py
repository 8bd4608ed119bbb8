"""The cost of SeeSR's adapter: a guided sampling step with it, compared with one of the stock UNet and ControlNet.

    OMP_WAIT_POLICY=passive python benchmarks/seesr_step.py [--size tiny] [--dtype bfloat16] [--device cuda]

The weights are random, in Stable Diffusion 2's shapes, and take about 7 GB in float32. Both kinds of step are measured
in one process, by turns, on a batch of two: the two halves of classifier-free guidance. The stock step is what a stock
pipeline does, embedding the condition image in every step; SeeSR's is what this package's pipeline does, with the
embedding and the representation's keys and values prepared beforehand. The arithmetic is counted on the shapes, for
steps that prepare nothing: at full size the adapter's is 547 of 1,635 GFLOP for each half. A transformer's GFLOP take
longer than a convolution's, and only the stock models have convolutions; so each representation transformer is also
timed against the stock text transformer that it follows. Peak memory is a step's own (activations) plus the weights it
uses.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from diffusers_sr.seesr.adapter import SeeSRAdapter

SIZES: dict[str, dict[str, Any]] = {
    "sd2": {
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "tiny": {
        "block_out_channels": (32, 32, 64, 64),
        "attention_head_dim": (1, 1, 2, 2),
        "cross_attention_dim": 32,
        "use_linear_projection": True,
    },
}
KINDS = ("stock", "SeeSR")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REPRESENTATION_TOKENS, REPRESENTATION_DIM, TEXT_TOKENS = 145, 512, 77


class Bench:
    """The models on a device, and a step of each kind."""

    def __init__(self, size: str, latent_size: int, dtype: torch.dtype, device: torch.device) -> None:
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        with device:
            self.unet = UNet2DConditionModel(**SIZES[size]).eval()
            self.controlnet = ControlNetModel(**SIZES[size]).eval()
            self.adapter = SeeSRAdapter.from_hosts(self.unet, self.controlnet, REPRESENTATION_DIM).eval()
            self.latents = torch.randn(2, 4, latent_size, latent_size)
            self.text = torch.randn(2, TEXT_TOKENS, SIZES[size]["cross_attention_dim"])
            self.image = torch.rand(1, 3, 8 * latent_size, 8 * latent_size)
            self.representation = torch.randn(1, REPRESENTATION_TOKENS, REPRESENTATION_DIM)
        torch.set_default_dtype(torch.float32)
        self.embedding = self.controlnet.controlnet_cond_embedding(self.image).detach()

    def prepare(self, kind: str) -> None:
        if kind == "stock":
            self.adapter.detach()
            return
        self.adapter.attach(self.unet).attach(self.controlnet)
        self.adapter.set_conditioning(representation=self.representation)

    def step(self, condition: torch.Tensor) -> None:
        call = (self.latents, 500, self.text)
        down, middle = self.controlnet(*call, condition.repeat(2, 1, 1, 1), return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        negative, positive = self.unet(*call, **residuals, return_dict=False)[0].chunk(2)
        negative + 5.5 * (positive - negative)

    def transformers(self) -> list[tuple[Callable[[], None], Callable[[], None]]]:
        """Make pairs of calls for each kind of site in the UNet.

        One calls the site's text transformer, the other the representation transformer that follows it. Both do the
        same work on the same hidden states, except for the length of what they attend to.
        """
        self.prepare("SeeSR")
        self.adapter.detach()
        calls: list[tuple[Callable[[], None], Callable[[], None]]] = []
        for level, channels in enumerate(self.unet.config.block_out_channels[:-1]):
            site = f"down_blocks.{level}.attentions.0"
            size = self.latents.shape[-1] >> level
            hidden_states = torch.randn(2, channels, size, size).to(self.latents)
            text = partial(self.unet.get_submodule(site), hidden_states, self.text)
            calls.append((text, partial(self.adapter, "attend_to_representation", "unet", site, hidden_states)))
        return calls

    def weights(self, kind: str) -> int:
        """Count the bytes of the weights that a step uses."""
        models = [self.unet, self.controlnet, *([self.adapter] if kind == "SeeSR" else [])]
        return sum(tensor.numel() * tensor.element_size() for model in models for tensor in model.parameters())


def measure(step: Callable[[], object], device: torch.device) -> float:
    """Measure the seconds of a step."""
    synchronise(device)
    start = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - start


def peak_memory(step: Callable[[], object], device: torch.device) -> int:
    """Measure the bytes that a step needs at its peak, beyond those in use before.

    This first returns memory to the system, which the step has to ask for again: do not time such a step.
    """
    before = memory(device, reset=True)
    step()
    synchronise(device)
    return memory(device) - before


def memory(device: torch.device, reset: bool = False) -> int:
    """Read the peak of allocated (CUDA) or resident (CPU, Linux only) bytes; `reset` sets it to what is in use."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    if reset:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed but is still held would hide what the step needs
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_flops(size: str, latent_size: int) -> dict[str, int]:
    """Count the floating-point operations of a step of each kind, on tensors without data.

    The steps are those of the official code, which prepares nothing beforehand.
    """
    bench = Bench(size, latent_size, torch.float32, torch.device("meta"))
    bench.representation = bench.representation.repeat(2, 1, 1)
    flops = {}
    for kind in KINDS:
        with FlopCounterMode(display=False) as counter:
            bench.prepare(kind)
            bench.step(bench.image)
        flops[kind] = counter.get_total_flops()
    return flops


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="sd2")
    parser.add_argument("--latent-size", type=int, default=64, help="side of the latents; 8 pixels each")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each kind, after two others")
    options = parser.parse_args(arguments)

    flops = count_flops(options.size, options.latent_size)
    bench = Bench(options.size, options.latent_size, DTYPES[options.dtype], options.device)
    conditions = {"stock": bench.image, "SeeSR": bench.embedding}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    peaks: dict[str, int] = {}
    for turn in range(options.rounds + 2):
        for kind in KINDS:
            bench.prepare(kind)
            step = partial(bench.step, conditions[kind])
            if turn == 0:
                peaks[kind] = bench.weights(kind) + peak_memory(step, options.device)
            elif turn == 1:
                step()
            else:
                seconds[kind].append(measure(step, options.device))

    print(f"{options.size}, {options.latent_size}×{options.latent_size} latents, {options.dtype}, {options.device}")
    for kind in KINDS:
        print(
            f"{kind}: {statistics.median(seconds[kind]):.3f} s a guided step (median of {options.rounds}), "
            f"{flops[kind] / 1e9:.1f} GFLOP, peak memory {peaks[kind] / 1e9:.2f} GB"
        )
    ratio = statistics.median(seesr / stock for seesr, stock in zip(seconds["SeeSR"], seconds["stock"], strict=True))
    arithmetic = flops["SeeSR"] / flops["stock"]
    print(f"time: {ratio:.3f} times the stock step's; the arithmetic is {arithmetic:.3f} times as much")
    print(f"step above its arithmetic: {100 * (ratio / arithmetic - 1):+.1f} %")
    print(f"adapter alone above its arithmetic: {100 * ((ratio - 1) / (arithmetic - 1) - 1):+.1f} % (at most +10 %)")
    for level, calls in enumerate(bench.transformers()):
        pairs = [[measure(call, options.device) for call in calls] for _ in range(options.rounds + 1)][1:]
        cost = statistics.median(representation / text for text, representation in pairs)
        print(f"level {level}: a representation transformer takes {cost:.3f} times its text transformer's time")
    print(f"memory: {peaks['SeeSR'] / peaks['stock']:.3f} times the stock step's")


if __name__ == "__main__":
    main()
