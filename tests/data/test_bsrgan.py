"""BSRGAN's degradation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from diffusers_sr.data import bsrgan
from diffusers_sr.data.bsrgan import add_noise, draw_kernel, draw_mixing, draw_steps, take_every
from diffusers_sr.data.degradation import degrade, degrade_batch
from diffusers_sr.data.degradation_settings import ShuffledDegradation
from diffusers_sr.data.draws import weighted_choice, whole_number
from tests.data.samples import generator


def test_steps_are_shuffled_and_the_rest_of_the_reduction_comes_after_it() -> None:
    source = generator()
    orders = [tuple(draw_steps(source)) for _ in range(3000)]
    assert all(sorted(order) == ["blur", "blur", "finish", "jpeg", "noise", "reduce"] for order in orders)
    assert all(order.index("reduce") < order.index("finish") for order in orders)
    assert len({*orders}) == 180, "6! orders, of which two blurs and the two reductions make four alike"
    first = Counter(order[0] for order in orders)
    # Of six places each is first equally often; the reduction has both of the reductions' shares.
    assert first["reduce"] / 3000 == pytest.approx(1 / 3, abs=0.035)
    assert first["noise"] / 3000 == pytest.approx(1 / 6, abs=0.03) and first["finish"] == 0


def test_pixels_are_taken_at_the_centre_of_those_they_stand_for() -> None:
    """Of a slope, every fourth pixel is the mean of the four: 1.5, 5.5, ..., away from the borders."""
    slope = torch.arange(64.0).expand(1, 64, 64)
    assert take_every(slope, 4, 1.7)[0, 8, 4:12].tolist() == pytest.approx(
        [4 * n + 1.5 for n in range(4, 12)], abs=1e-3
    )
    assert take_every(slope.mT, 2, 0.5)[0, 8:24, 9].tolist() == pytest.approx(
        [2 * n + 0.5 for n in range(8, 24)], abs=1e-3
    )


def test_kernels_are_as_wide_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, float, float, float]] = []

    def record(size: int, sigma: tuple[float, float], angle: float = 0.0) -> torch.Tensor:
        drawn.append((size, *sigma, angle))
        return torch.ones(size, size)

    monkeypatch.setattr(bsrgan, "gaussian_kernel", record)
    source = generator()
    for _ in range(4000):
        draw_kernel(ShuffledDegradation(), 4, source)
    sizes, across, along, angles = np.array(drawn).T
    assert {*sizes} == {7, 9, 11, 13, 15, 17, 19, 21, 23, 25}
    is_turned = across != along
    assert is_turned.mean() == pytest.approx(0.5, abs=0.04)
    assert across[~is_turned].max() == pytest.approx(2.8, abs=0.02)
    assert across[~is_turned].mean() == pytest.approx(1.4, abs=0.08)
    assert (across[is_turned] ** 2).max() == pytest.approx(8, abs=0.05)
    assert (along[is_turned] ** 2).mean() == pytest.approx(4, abs=0.25)
    assert angles.max() == pytest.approx(np.pi, abs=0.02) and angles.min() >= 0


def test_noise_is_of_three_kinds() -> None:
    image = torch.full((3, 96, 96), 0.5)

    def noise(*probabilities: float) -> torch.Tensor:
        settings = ShuffledDegradation(noise_probabilities=probabilities, noise_level=(20, 20))
        return (add_noise(image, settings, generator(3), generator(4)) - 0.5).flatten(1)

    color, gray = noise(1, 0, 0), noise(0, 1, 0)
    assert color.std().item() * 255 == pytest.approx(20, rel=0.02)
    assert torch.corrcoef(color)[0, 1].abs() < 0.04
    assert torch.equal(gray[0], gray[1]) and gray[0].std().item() * 255 == pytest.approx(20, rel=0.04)
    source = generator(3)
    weighted_choice(source, ("",) * 3, (0.0, 0.0, 1.0))
    whole_number(source, 20, 20)
    mixing = draw_mixing(20 / 255, source).float()
    torch.testing.assert_close(torch.cov(noise(0, 0, 1)), mixing.T @ mixing, rtol=0.1, atol=3e-4)


def test_results_are_small_and_reproducible(photo: torch.Tensor) -> None:
    settings = ShuffledDegradation()
    results = [degrade(photo, generator(seed), settings) for seed in range(4)]
    for seed, result in enumerate(results):
        assert result.shape == (3, 32, 36)
        assert result.min() >= 0 and result.max() <= 1
        assert torch.equal((result * 255).round() / 255, result)
        assert torch.equal(degrade(photo, generator(seed), settings), result)
    batch = degrade_batch(photo[:, :64, :48].expand(2, -1, -1, -1), torch.arange(2), settings)
    assert batch.shape == (2, 3, 16, 12)


@pytest.mark.parametrize("random_reduction", [0, 1])
def test_nothing_is_moved(random_reduction: float) -> None:
    """Blurs and reductions leave a slope as it is: a pixel of the result is the mean of the four below it."""
    settings = ShuffledDegradation(
        noise_level=(0, 0), jpeg_quality=(100, 100), random_reduction_probability=random_reduction
    )
    slope = torch.linspace(0.1, 0.9, 128).expand(3, 128, 128).mT
    means = slope[0, :, 0].reshape(32, 4).mean(1)
    for seed in range(8):
        result = degrade(slope, generator(seed), settings)[:, 12:20, 16].mean(0)
        torch.testing.assert_close(result, means[12:20], rtol=0, atol=0.5 * 0.8 / 32)
