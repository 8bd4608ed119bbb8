"""The steps of the degradation, each alone: its draws, resizing, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import degradation as published
from diffusers_sr.data import degradation
from diffusers_sr.data.degradation import (
    add_noise,
    draw_kernel,
    draw_resize_factor,
    poisson_noise,
    resize,
)
from diffusers_sr.data.degradation_settings import DegradationOrder
from diffusers_sr.data.draws import choice
from tests.data.samples import generator


def test_kernels_are_drawn_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, tuple[Any, ...]]] = []
    for name in ("gaussian_kernel", "plateau_kernel", "sinc_kernel"):
        original = getattr(degradation, name)

        def record(*arguments: object, name: str = name, original: Any = original) -> torch.Tensor:
            drawn.append((name, arguments))
            return original(*arguments)

        monkeypatch.setattr(degradation, name, record)

    order, source, count = DegradationOrder(), generator(), 4000
    for _ in range(count):
        draw_kernel(order, source)

    def share(of: Sequence[object]) -> float:
        return len(of) / count

    sizes = np.array([arguments[0] for _, arguments in drawn])
    assert sorted(set(sizes.tolist())) == list(order.kernel_sizes)
    assert sizes.mean() == pytest.approx(14, abs=0.3)

    sincs = [arguments for name, arguments in drawn if name == "sinc_kernel"]
    assert share(sincs) == pytest.approx(0.1, abs=0.02)
    for small, lowest in ((True, math.pi / 3), (False, math.pi / 5)):
        cutoffs = np.array([cutoff for size, cutoff in sincs if (size < 13) == small])
        assert lowest <= cutoffs.min() and cutoffs.max() <= math.pi
        assert cutoffs.mean() == pytest.approx((lowest + math.pi) / 2, abs=0.15)

    others = [(name, arguments) for name, arguments in drawn if name != "sinc_kernel"]
    sigma = np.array([arguments[1][0] for _, arguments in others])
    assert sigma.min() >= 0.2 and sigma.max() <= 3 and sigma.mean() == pytest.approx(1.6, abs=0.06)
    turned = [arguments for _, arguments in others if arguments[1][0] != arguments[1][1]]
    assert share(turned) == pytest.approx(0.9 * (0.25 + 0.03 + 0.03), abs=0.03)
    angles = np.array([arguments[2] for arguments in turned])
    assert np.abs(angles).max() <= math.pi and angles.mean() == pytest.approx(0, abs=0.2)

    plateaus = np.array([arguments[3] for name, arguments in others if name == "plateau_kernel"])
    assert len(plateaus) / count == pytest.approx(0.9 * 0.15, abs=0.02)
    assert (plateaus == 1).mean() == pytest.approx(0.5, abs=0.06) and plateaus.max() <= 2
    shapes = np.array(
        [arguments[3] for name, arguments in others if name == "gaussian_kernel" and len(arguments) == 4]
    )
    assert len(shapes) / count == pytest.approx(0.9 * 0.15, abs=0.02)
    assert shapes.min() >= 0.5 and shapes.max() <= 4
    assert (shapes < 1).mean() == pytest.approx(0.5, abs=0.07)


def test_a_sample_draws_what_is_published() -> None:
    """All that `degrade` draws, against the ranges and chances of SeeSR's training pairs."""
    draws = published.record_draws(1000)
    statistics = list(published.statistics(draws))
    assert len(statistics) == 47
    for each in statistics:
        assert each.number > 30 and abs(each.z) < 4, each
    # Besides them only the plateau's half of a range that has nothing below 1, and a first blur that is always there.
    assert draws["_uniform"].keys() - set(published.RANGES.values()) == {(1.0, 1.0)}
    assert draws["_chance"].keys() - {(chance,) for chance in published.CHANCES.values()} == {(1.0,)}
    for (low, high), values in draws["_uniform"].items():
        # Of n draws, one in a thousand leaves 7 / n of the range empty at an end.
        reach = 7 / len(values) * (high - low)
        assert low <= min(values) <= low + reach and high - reach <= max(values) <= high


@pytest.mark.parametrize(
    ("kind", "shapes", "end"), [(2, (0.5, 0.8), 0.8), (2, (2.0, 4.0), 2.0), (4, (0.5, 0.8), 0.8), (4, (1.0, 2.0), 1.0)]
)
def test_a_range_of_shapes_on_one_side_of_1_gives_its_end_half_of_the_time(
    monkeypatch: pytest.MonkeyPatch, kind: int, shapes: tuple[float, float], end: float
) -> None:
    drawn: list[float] = []
    for name in ("gaussian_kernel", "plateau_kernel"):

        def record(size: int, sigma: object, angle: float, shape: float) -> torch.Tensor:
            drawn.append(shape)
            return torch.ones(size, size)

        monkeypatch.setattr(degradation, name, record)
    probabilities = tuple(float(index == kind) for index in range(6))
    order = DegradationOrder(
        sinc_probability=0, kernel_probabilities=probabilities, generalised_shape=shapes, plateau_shape=shapes
    )
    source = generator()
    for _ in range(1000):
        draw_kernel(order, source)
    others = np.array([shape for shape in drawn if shape != end])
    assert len(drawn) == 1000 and len(others) / 1000 == pytest.approx(0.5, abs=0.06)
    assert others.min() == pytest.approx(shapes[0], abs=0.02 * shapes[1])
    assert others.max() == pytest.approx(shapes[1], abs=0.02 * shapes[1])


def test_resize_factors_are_drawn_as_configured() -> None:
    source = generator()
    factors = np.array([draw_resize_factor(DegradationOrder(), source) for _ in range(4000)])
    down, up = factors[factors < 1], factors[factors > 1]
    assert len(down) / 4000 == pytest.approx(0.7, abs=0.03) and len(up) / 4000 == pytest.approx(0.2, abs=0.03)
    assert down.min() >= 0.15 and down.mean() == pytest.approx(0.575, abs=0.02)
    assert up.max() <= 1.5 and up.mean() == pytest.approx(1.25, abs=0.02)


def test_resize_draws_all_three_interpolations(photo: torch.Tensor) -> None:
    size = (40, 50)
    expected = [F.interpolate(photo[None], size=size, mode=mode)[0] for mode in ("area", "bilinear", "bicubic")]
    seen = set()
    for seed in range(20):
        result = resize(photo, size, generator(seed))
        seen |= {index for index, image in enumerate(expected) if torch.equal(image, result)}
    assert seen == {0, 1, 2}


def test_resizing_to_the_same_size_is_what_each_interpolation_does(photo: torch.Tensor) -> None:
    for mode in degradation.INTERPOLATIONS:
        assert torch.equal(F.interpolate(photo[None], size=photo.shape[1:], mode=mode)[0], photo)
    source, drawn = generator(), generator()
    assert torch.equal(resize(photo, (128, 144), source), photo)
    choice(drawn, degradation.INTERPOLATIONS)
    assert torch.equal(source.get_state(), drawn.get_state()), "one is drawn all the same"


@pytest.mark.parametrize("gray", [False, True])
def test_gaussian_noise_has_its_deviation(gray: bool) -> None:
    image = torch.full((3, 64, 64), 0.5)
    order = DegradationOrder(
        gaussian_noise_probability=1, gray_noise_probability=float(gray), gaussian_noise_sigma=(10, 10)
    )
    noise = add_noise(image, order, generator()) - image
    assert noise.std().item() * 255 == pytest.approx(10, rel=0.05)
    assert noise.mean().item() * 255 == pytest.approx(0, abs=0.5)
    assert torch.allclose(noise[0], noise[1]) == gray


def test_poisson_noise_grows_with_brightness() -> None:
    # 256 distinct values: 256 photons for white, so that the variance is value / 256.
    image = (torch.arange(256.0) / 255).repeat(3, 64, 1)
    noise = poisson_noise(image, False, generator())
    assert noise.shape == image.shape
    variance = noise.var(dim=(0, 1))
    assert variance[0] == 0
    for low, high in ((32, 96), (160, 224)):
        assert variance[low:high].mean().item() == pytest.approx(image[0, 0, low:high].mean().item() / 256, rel=0.1)
    assert noise.mean().abs() < 1e-3

    # Few distinct values: 4 photons, stronger noise.
    flat = torch.tensor([0.0, 0.5, 0.75])[:, None, None].expand(3, 64, 64)
    assert poisson_noise(flat, False, generator())[1].var().item() == pytest.approx(0.5 / 4, rel=0.1)
    gray = poisson_noise(image, True, generator())
    assert torch.equal(gray[0], gray[1])


def test_poisson_noise_is_scaled(photo: torch.Tensor) -> None:
    order = DegradationOrder(gaussian_noise_probability=0, gray_noise_probability=0)
    weak, strong = (
        add_noise(photo, replace(order, poisson_noise_scale=(scale, scale)), generator()) - photo
        for scale in (0.1, 0.2)
    )
    inside = (photo > 0.1) & (photo < 0.9)  # not clamped
    torch.testing.assert_close(2 * weak[inside], strong[inside], atol=1e-6, rtol=0)
