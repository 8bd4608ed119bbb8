from __future__ import annotations

import math

import pytest

from diffusers_sr.evaluation.bootstrap import paired_interval


def test_two_differences_worked_out_by_hand() -> None:
    """Means of two draws from 0 and 1 are 0 and 1 in a quarter of the cases each, and 0.5 in half of them.

    The middle 95 % reach from 0 to 1; the middle 40 % hold 0.5 only.
    """
    assert paired_interval([0, 1]) == (0.5, 0, 1)
    assert paired_interval([0, 1], confidence=0.4) == (0.5, 0.5, 0.5)


def test_many_differences_have_the_interval_of_the_normal_distribution() -> None:
    """Of 400 differences of +-1 around 0.2, the mean has a standard error of 1 / 20: 1.96 of them on each side."""
    mean, low, high = paired_interval([1.2, -0.8] * 200)
    assert mean == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.2 - 1.96 / 20, 0.2 + 1.96 / 20), abs=0.005)
    assert paired_interval([1.2, -0.8] * 200) == (mean, low, high), "the draws are the same"


def test_a_single_difference_and_none() -> None:
    assert paired_interval([0.3]) == (0.3, 0.3, 0.3)
    with pytest.raises(ValueError, match="no difference to average"):
        paired_interval([])
    with pytest.raises(ValueError, match="hold nan: leave out"):
        paired_interval([1.0, math.nan])
