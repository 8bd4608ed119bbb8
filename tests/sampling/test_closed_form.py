"""Noise on latents, and latents without their noise."""

from __future__ import annotations

import pytest
import torch

from diffusers_sr.sampling.closed_form import add_noise, as_fine_as, without_noise


def test_formulas():
    latents, noise, alpha = torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor(0.64)
    assert add_noise(latents, noise, alpha).item() == pytest.approx(0.8 * 2 + 0.6 * 3)
    assert without_noise(latents, noise, alpha).item() == pytest.approx((2 - 0.6 * 3) / 0.8, rel=1e-6)


def test_types_of_the_roots():
    """The root of 0.0046601, a float32 number, is 0.06826492399 in float32 and 0.06826492665 in float64."""
    alpha, one, zero = torch.tensor(0.0046601), torch.ones(1).double(), torch.zeros(1).double()
    fine = float(alpha) ** 0.5
    coarse = alpha.sqrt().item()
    assert coarse == pytest.approx(0.06826492399, abs=1e-11)
    assert fine == pytest.approx(0.06826492665, abs=1e-11)
    assert add_noise(one, zero, alpha).item() == fine
    assert without_noise(one, zero, alpha).item() == 1 / coarse
    assert without_noise(one, zero, as_fine_as(one, alpha)).item() == 1 / fine
    assert as_fine_as(one.half(), alpha).dtype == torch.float32
    assert add_noise(one.half(), zero.half(), alpha).dtype == torch.float16
