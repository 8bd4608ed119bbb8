from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffusers_sr.evaluation.halos import step_chart, step_overshoot
from diffusers_sr.image.pixels import resize


def nearest(image: torch.Tensor) -> torch.Tensor:
    return F.interpolate(image, scale_factor=4)


def bicubic(image: torch.Tensor) -> torch.Tensor:
    return resize(image, (4 * image.shape[-2], 4 * image.shape[-1]))


def test_the_chart() -> None:
    chart = step_chart(144, (0.2, 0.6))
    assert chart.shape == (1, 3, 144, 144)
    assert [chart[0, 0, 72, column].item() for column in (34, 35, 104, 105)] == pytest.approx([0.2, 0.6, 0.6, 0.2])
    assert [chart[0, 0, row, 72].item() for row in (33, 34, 107, 108)] == pytest.approx([0.2, 0.6, 0.6, 0.2])
    shares = F.avg_pool2d(chart, 4)[0, 0]
    assert [shares[18, column].item() for column in (8, 26)] == pytest.approx([0.3, 0.3]), "a quarter of the step"
    assert [shares[row, 18].item() for row in (8, 27)] == pytest.approx([0.4, 0.2]), "a half, and nothing"


def test_bicubic_enlargement_worked_out_by_hand() -> None:
    """At the lower edge, which divides no pixel, the pixel beyond it is counted with a t (1 - t)^2.

    A pixel of the result lies t = 3/8 of a pixel from the next one: a = -1/2 gives 0.0732, at a level of 0.5 as at 1.
    """
    expected = 0.5 * 3 / 8 * (5 / 8) ** 2
    assert step_overshoot(bicubic) == pytest.approx(expected, abs=1e-4)
    assert step_overshoot(bicubic, side=144, levels=(0.6, 0.4)) == pytest.approx(expected, abs=1e-4)


def test_what_does_not_overshoot() -> None:
    assert step_overshoot(nearest) == 0
    assert step_overshoot(lambda image: F.avg_pool2d(nearest(image), 5, 1, 2)) == 0, "a blur"
    assert step_overshoot(lambda image: 0.5 * nearest(image) + 0.3) == pytest.approx(0, abs=1e-6), "levels"


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(slice(46, 144), slice(31, 47)), (slice(46, 144), slice(141, 157)), (slice(30, 46), slice(47, 141)),
     (slice(128, 144), slice(47, 141))],
)  # fmt: skip
def test_an_outline_on_either_side_of_any_edge(rows: slice, columns: slice) -> None:
    """A line of 16 pixels beside an edge, darker on the ground and lighter in the square by 0.04: 8 % of the step."""

    def outlined(image: torch.Tensor) -> torch.Tensor:
        result = step_chart()
        is_square = result[0, 0, rows, columns].mean() > 0.5
        result[..., rows, columns] += 0.04 if is_square else -0.04
        return result

    assert step_overshoot(outlined) == pytest.approx(0.08, abs=1e-5)
