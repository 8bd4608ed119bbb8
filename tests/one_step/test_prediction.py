"""The formulas of one-step models, and the passes that PiSA-SR's dials need."""

from __future__ import annotations

import pytest
import torch

from diffusers_sr.one_step.prediction import Pass, denoise, dial_passes, weighted_sum

BOTH, PIXEL = ("pixel", "semantic"), ("pixel",)


def test_formulas():
    latents, noise, alpha = torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor(0.64)
    assert denoise("residual", latents, noise, alpha).item() == -1
    assert denoise("x0", latents, noise, alpha).item() == pytest.approx((2 - 0.6 * 3) / 0.8, rel=1e-6)


def test_an_unknown_prediction():
    with pytest.raises(ValueError, match=r"prediction='v', expected one of \['residual', 'x0'\]"):
        denoise("v", torch.zeros(1), torch.zeros(1), torch.tensor(0.5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pixel", "semantic", "passes"),
    [
        (1, 1, [Pass(BOTH, 1)]),
        (0.7, 0.7, [Pass(BOTH, 0.7)]),
        (1, 0, [Pass(PIXEL, 1)]),
        (0.5, 1, [Pass(BOTH, 1), Pass(PIXEL, -0.5)]),
        (0, 1, [Pass(BOTH, 1), Pass(PIXEL, -1)]),
        (0, 0, [Pass(BOTH, 0)]),
    ],
)
def test_passes_of_the_dials(pixel, semantic, passes):
    assert dial_passes(pixel, semantic) == passes
    outputs = {BOTH: torch.tensor([5.0]), PIXEL: torch.tensor([2.0])}
    expected = pixel * 2.0 + semantic * (5.0 - 2.0)
    assert weighted_sum(passes, outputs.__getitem__).item() == pytest.approx(expected)
