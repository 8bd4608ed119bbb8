"""Samples per second of the training degradation on one core: `python benchmarks/degradation.py`."""

from __future__ import annotations

import argparse
import time

import torch

from diffusers_sr.data.degradation import degrade, usm_sharpen


def milliseconds(side: int, samples: int) -> tuple[float, float]:
    """Mean time of sharpening and of degrading one image of `side` x `side` pixels, over the same draws every run."""
    # Smooth patches as in a photo: pure noise or a flat field would change the cost of Poisson noise.
    image = torch.rand(1, 3, side // 16, side // 16, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(image, size=(side, side), mode="bilinear")[0]
    spent = [0.0, 0.0]
    for seed in range(-3, samples):  # three warm up
        generator = torch.Generator().manual_seed(seed % 2**32)
        start = time.perf_counter()
        target = usm_sharpen(image)
        middle = time.perf_counter()
        degrade(target, generator)
        if seed >= 0:
            spent[0] += middle - start
            spent[1] += time.perf_counter() - middle
    return 1e3 * spent[0] / samples, 1e3 * spent[1] / samples


def main() -> None:
    """Print one line a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=200)
    samples = parser.parse_args().samples
    torch.set_num_threads(1)
    for side in (128, 512):
        sharpen, degradation = milliseconds(side, samples)
        print(
            f"{side}x{side}: {1e3 / (sharpen + degradation):.1f} samples/s per core "
            f"(sharpen {sharpen:.1f} ms, degrade {degradation:.1f} ms)"
        )


if __name__ == "__main__":
    main()
