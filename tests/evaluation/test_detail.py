from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffusers_sr.evaluation.detail import stripe_gains


def test_the_mean_of_three_pixels_worked_out_by_hand() -> None:
    """It leaves (1 + 2 cos(2 pi / period)) / 3 of a wave across it, and all of one along it."""

    def blur(image: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(image, (1, 3), stride=1, padding=(0, 1), count_include_pad=False)

    gains = stripe_gains(blur, (2, 3, 4, 6), side=96)
    assert gains == pytest.approx({2: -1 / 3, 3: 0, 4: 1 / 3, 6: 2 / 3}, abs=1e-4)


def test_offsets_and_contrast() -> None:
    assert stripe_gains(lambda image: 0.3 + 0.5 * image, (2, 5), side=80) == pytest.approx({2: 0.5, 5: 0.5}, abs=1e-4)
    assert stripe_gains(lambda image: 1.5 * image - 0.25, (8,), side=64) == pytest.approx({8: 1.5}, abs=1e-4)


def test_repeated_means_worked_out_by_hand() -> None:
    """Means of 2 x 2 pixels, repeated: stripes of two pixels are lost, and those of four, two pairs, are kept."""

    def halve_and_repeat(image: torch.Tensor) -> torch.Tensor:
        return F.interpolate(F.avg_pool2d(image, 2), scale_factor=2)

    assert stripe_gains(halve_and_repeat, (2, 4), side=64) == pytest.approx({2: 0, 4: 1}, abs=1e-4)
