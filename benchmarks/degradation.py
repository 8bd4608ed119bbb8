"""Speed and statistics of the training degradation: `python benchmarks/degradation.py`.

It prints samples per second for one core, by the processor time of the process, so that other work on the machine
counts little; and for a GPU, where there is one, by the clock. Reading and cropping a photo is not included.

Then it prints what `degrade` draws, next to the ranges and chances that the training pairs of SeeSR were made with
(Real-ESRGAN's second-order degradation, with SeeSR's settings).
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from diffusers_sr.data import degradation
from diffusers_sr.data.degradation import INTERPOLATIONS, degrade, degrade_batch
from diffusers_sr.data.degradation_settings import KERNELS, RESIZES
from diffusers_sr.data.seeds import sample_generator
from diffusers_sr.data.sharpening import usm_sharpen

RANGES = {
    "blur deviation, first order": (0.2, 3.0),
    "blur deviation, second order": (0.2, 1.5),
    "blur direction": (-math.pi, math.pi),
    "generalised gaussian, heavy tails": (0.5, 1.0),
    "generalised gaussian, flat top": (1.0, 4.0),
    "plateau": (1.0, 2.0),
    "sinc cutoff, kernels below 13 pixels; final": (math.pi / 3, math.pi),
    "sinc cutoff, kernels from 13 pixels": (math.pi / 5, math.pi),
    "enlarging, first order": (1.0, 1.5),
    "shrinking, first order": (0.15, 1.0),
    "enlarging, second order": (1.0, 1.2),
    "shrinking, second order": (0.3, 1.0),
    "gaussian noise / 255, first order": (1.0, 30.0),
    "gaussian noise / 255, second order": (1.0, 25.0),
    "Poisson noise, first order": (0.05, 3.0),
    "Poisson noise, second order": (0.05, 2.5),
    "JPEG quality, both": (30.0, 95.0),
}
CHOICES = {
    "kernel": dict(zip(KERNELS, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03), strict=True)),
    "resize, first order": dict(zip(RESIZES, (0.2, 0.7, 0.1), strict=True)),
    "resize, second order": dict(zip(RESIZES, (0.3, 0.4, 0.3), strict=True)),
}
UNIFORM_CHOICES = {
    "kernel size, first order and final": tuple(range(7, 22, 2)),
    "kernel size, second order": (7, 9, 11),
    "interpolation": INTERPOLATIONS,
}
CHANCES = {
    "sinc blur": 0.1,
    "grey noise": 0.4,
    "gaussian noise; heavy tails; JPEG last": 0.5,
    "second blur; final sinc": 0.8,
}


def make_image(side: int) -> torch.Tensor:
    """Make smooth patches as in a photo: pure noise or a flat field would change the cost of Poisson noise."""
    image = torch.rand(1, 3, side // 16, side // 16, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(image, size=(side, side), mode="bilinear")[0]


def cpu_milliseconds(side: int, samples: int) -> tuple[float, float]:
    """Measure the mean processor time of sharpening and of degrading one image, over the same draws in every run."""
    image = make_image(side)
    spent = [0.0, 0.0]
    for seed in range(-3, samples):  # three warm up
        generator = torch.Generator().manual_seed(seed % 2**32)
        start = time.process_time()
        target = usm_sharpen(image)
        middle = time.process_time()
        degrade(target, generator)
        if seed >= 0:
            spent[0] += middle - start
            spent[1] += time.process_time() - middle
    return 1e3 * spent[0] / samples, 1e3 * spent[1] / samples


def gpu_samples_per_second(side: int, samples: int, batch_size: int = 8) -> float:
    """Measure how many samples are sharpened and degraded per second by the clock, in batches."""
    images = make_image(side).expand(batch_size, -1, -1, -1).cuda()
    for number in range(-2, math.ceil(samples / batch_size)):  # two warm up
        if number == 0:
            torch.cuda.synchronize()
            start = time.perf_counter()
        degrade_batch(usm_sharpen(images), torch.arange(batch_size) + (number + 2) * batch_size)
    torch.cuda.synchronize()
    return math.ceil(samples / batch_size) * batch_size / (time.perf_counter() - start)


def record_draws(samples: int) -> dict[str, dict[Any, list[Any]]]:
    """Record what `degrade` draws: the results for each way of drawing, by its arguments."""
    draws: dict[str, dict[Any, list[Any]]] = {}
    originals = {name: getattr(degradation, name) for name in ("_uniform", "_chance", "_choice", "_weighted_choice")}
    for name, original in originals.items():
        draws[name] = defaultdict(list)

        def record(generator: torch.Generator, *arguments: Any, name: str = name, original: Any = original) -> Any:
            draws[name][arguments].append(original(generator, *arguments))
            return draws[name][arguments][-1]

        setattr(degradation, name, record)
    try:
        image = make_image(32)
        for seed in range(samples):
            degrade(image, sample_generator(0, seed))
    finally:
        for name, original in originals.items():
            setattr(degradation, name, original)
    return draws


class Statistic(NamedTuple):
    """A summary of the draws for one parameter."""

    name: str
    published: str
    drawn: str
    number: int
    z: float
    """Distance of the mean, or of the share, from what is published, in standard errors."""


def statistics(draws: dict[str, dict[Any, list[Any]]]) -> Iterator[Statistic]:
    """Compare each published range and chance with what `record_draws` gives."""
    for name, (low, high) in RANGES.items():
        values = torch.tensor(draws["_uniform"][low, high])
        z = (values.mean() - (low + high) / 2) / ((high - low) / math.sqrt(12 * len(values)))
        drawn = f"{values.min():.2f} to {values.max():.2f}, mean {values.mean():.2f}"
        yield Statistic(name, f"{low:.2f} to {high:.2f}", drawn, len(values), float(z))
    for name, probability in CHANCES.items():
        yield _share(name, probability, draws["_chance"][probability,], True)
    for name, options in CHOICES.items():
        outcomes = draws["_weighted_choice"][tuple(options), tuple(options.values())]
        for option, probability in options.items():
            yield _share(f"{name}: {option}", probability, outcomes, option)
    for name, equal in UNIFORM_CHOICES.items():
        for value in equal:
            yield _share(f"{name}: {value}", 1 / len(equal), draws["_choice"][equal,], value)


def _share(name: str, probability: float, outcomes: list[Any], outcome: Any) -> Statistic:
    share = outcomes.count(outcome) / len(outcomes)
    z = (share - probability) / math.sqrt(probability * (1 - probability) / len(outcomes))
    return Statistic(name, f"{probability:.3f}", f"{share:.3f}", len(outcomes), z)


def main() -> None:
    """Print speeds, then statistics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200, help="samples for measuring the speed (%(default)s)")
    parser.add_argument(
        "--draws", type=int, default=4000, help="samples whose draws are counted, at least 500 (%(default)s)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    for side in (128, 512):
        sharpen, degradation_ = cpu_milliseconds(side, options.samples)
        print(
            f"{side}x{side}: {1e3 / (sharpen + degradation_):.1f} samples/s per core, by processor time "
            f"(sharpen {sharpen:.1f} ms, degrade {degradation_:.1f} ms)"
        )
        if torch.cuda.is_available():
            name = torch.cuda.get_device_name()
            print(f"{side}x{side}: {gpu_samples_per_second(side, options.samples):.1f} samples/s on one {name}")
    line = "{:45} {:>15} {:>25} {:>6} {:>5}"
    print(f"\nWhat {options.draws} samples drew\n" + line.format("parameter", "published", "drawn", "n", "z"))
    for each in statistics(record_draws(options.draws)):
        print(line.format(*each[:-1], f"{each.z:.1f}"))


if __name__ == "__main__":
    main()
