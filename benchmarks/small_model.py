"""The time of the package's default model, in calls from image to image and in arithmetic.

    OMP_WAIT_POLICY=passive python benchmarks/small_model.py [--size 512] [--dtype bfloat16] [--runs 3]

A call enlarges a picture of noise four times, whole. Beside it, by turns, runs a plain network of the arithmetic of
Real-ESRGAN's animevideov3: 16 convolutions of 64 channels with PReLUs between them, at the size of the input, and a
pixel shuffle. Its weights are random; they do not change the time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffusers_sr.hub import DEFAULT_MODEL, load_pipeline

SCALE, WIDTH, DEPTH = 4, 64, 16
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def plain_network() -> nn.Sequential:
    """Make the network of convolutions."""
    layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1)]
    for _ in range(DEPTH):
        layers += [nn.PReLU(WIDTH), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)]
    layers += [nn.PReLU(WIDTH), nn.Conv2d(WIDTH, 3 * SCALE**2, 3, padding=1), nn.PixelShuffle(SCALE)]
    return nn.Sequential(*layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the picture in pixels (default: 512)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    dtype = DTYPES[options.dtype]

    pipeline = load_pipeline(DEFAULT_MODEL, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    network = plain_network().to(dtype).eval()
    image = torch.rand(1, 3, options.size, options.size)
    whole = SCALE * options.size
    calls: dict[str, Callable[[], object]] = {
        "plain network": lambda: network(image.to(dtype)),
        DEFAULT_MODEL: lambda: pipeline(image, tile_size=whole, vae_tile_size=whole, output_type="pt"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    operations = {}
    with torch.inference_mode():
        for name, call in calls.items():
            with FlopCounterMode(display=False) as counter:
                call()
            operations[name] = counter.get_total_flops()
        for _ in range(options.runs):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{options.size}² to {whole}² pixels, {options.dtype}, {threads}")
    print("| | seconds (median) | spread | GFLOP |\n|---|---|---|---|")
    for name, times in seconds.items():
        spread = f"{min(times):.2f} to {max(times):.2f}"
        print(f"| {name} | {statistics.median(times):.2f} | {spread} | {operations[name] / 1e9:.0f} |")
    plain, ours = (statistics.median(times) for times in seconds.values())
    ratio = operations[DEFAULT_MODEL] / operations["plain network"]
    print(f"{DEFAULT_MODEL} takes {ours / plain:.2f} times as long, for {ratio:.2f} times the arithmetic.")


if __name__ == "__main__":
    main()
