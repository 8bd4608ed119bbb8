from __future__ import annotations

import math

import pytest
import torch

from diffusers_sr.evaluation.weave import fine_power, flat_weave


def grey(plane: torch.Tensor) -> torch.Tensor:
    return plane.expand(1, 3, *plane.shape)


def checks(amplitude: float, side: int = 64) -> torch.Tensor:
    """Single pixels that are lighter and darker in turn: 0.5 cycles a pixel along both axes."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return amplitude * (1 - 2 * ((rows + columns) % 2))


def test_white_noise_has_its_variance_as_power() -> None:
    noise = 0.1 * torch.randn(400, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert fine_power(noise).mean().item() == pytest.approx(0.01, rel=0.02)


def test_checks_worked_out_by_hand() -> None:
    """A wave of one frequency, its energy times the window's spread, in the band of 32^2 - 23^2 = 495 of 1024 bins.

    Frequencies below 0.35 are 0 to 11 of 32, in both directions: 23. All energy is in the band, so that the mean power
    is 1024 / 495 times the variance.
    """
    assert fine_power(checks(0.01, 32)[None].double()).item() == pytest.approx(1e-4 * 1024 / 495, rel=1e-4)
    rounding = 0.446966 / (12 * 255**2)
    flat = torch.full((64, 64), 0.5)
    expected = (1e-4 * 1024 / 495 + rounding) / rounding
    assert flat_weave(grey(flat), grey(flat + checks(0.01))).item() == pytest.approx(expected, rel=1e-3)
    assert flat_weave(grey(flat), grey(flat)).item() == 1


def test_coarse_structure_is_no_weave() -> None:
    flat = torch.full((64, 64), 0.5)
    wave = 0.1 * torch.sin(2 * math.pi * torch.arange(64) / 8).expand(64, 64)
    assert flat_weave(grey(flat), grey(flat + wave)).item() == pytest.approx(1, abs=0.01)


def test_flat_areas_alone_count() -> None:
    """The left half deviates by 3/255, the right one by 5/255; only the right half's result has another structure."""
    original = 0.5 + torch.cat([checks(3 / 255, 64), checks(5 / 255, 64)], 1)
    result = original.clone()
    result[:, 64:] = 0.5
    assert flat_weave(grey(original), grey(result)).item() == pytest.approx(1)
    result[:, :64] = 0.5
    assert flat_weave(grey(original), grey(result)).item() < 0.01


def test_images_by_themselves_and_without_flat_areas() -> None:
    flat = torch.full((1, 3, 48, 40), 0.5)
    rough = flat + checks(0.1, 48)[:, :40]
    ratios = flat_weave(torch.cat([rough, flat]), torch.cat([rough, flat]))
    assert ratios[0].isnan() and ratios[1] == 1
    with pytest.raises(ValueError, match="each side needs at least 32"):
        flat_weave(torch.rand(1, 3, 31, 40), torch.rand(1, 3, 31, 40))
