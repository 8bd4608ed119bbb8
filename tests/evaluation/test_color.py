from __future__ import annotations

import math

import pytest
import torch

from diffusers_sr.evaluation.color import AXES, axis_psnr, color_gains


def without(axis: str, kept: float) -> torch.Tensor:
    """The matrix that leaves a share of one axis, and the others alone."""
    direction = AXES[axis]
    return torch.eye(3) - (1 - kept) * torch.outer(direction, direction)


def test_the_axes() -> None:
    axes = torch.stack([*AXES.values()])
    torch.testing.assert_close(axes @ axes.T, torch.eye(3))
    orange, magenta = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 0.0, 1.0])
    assert AXES["orange_blue"] @ orange == pytest.approx(math.sqrt(1 / 2))
    assert AXES["magenta_green"] @ orange == pytest.approx(0, abs=1e-6)
    assert AXES["magenta_green"] @ magenta == pytest.approx(math.sqrt(2 / 3))
    assert AXES["orange_blue"] @ magenta == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("axis", AXES)
def test_what_is_lost_of_an_axis(axis: str) -> None:
    """An image that is flat is reconstructed with an offset, with noise at its border, and with 2 % of one axis."""

    def reconstruct(patch: torch.Tensor) -> torch.Tensor:
        result = torch.einsum("oc,bchw->bohw", without(axis, 0.02), patch) + 0.1
        result[..., :4, :] = 1
        return result

    gains = color_gains(reconstruct, side=16)
    assert gains == pytest.approx({name: 0.02 if name == axis else 1.0 for name in AXES}, abs=1e-4)


def test_the_gain_of_a_clipped_axis_worked_out_by_hand() -> None:
    """With values of 0, 0.5 and 1, clipped to 0.5 in all channels.

    By symmetry, each axis has the slope of a single channel: of 0, 0.5, 0.5 on 0, 0.5, 1, which is 0.5.
    """
    gains = color_gains(lambda patch: patch.clamp(max=0.5), levels=3, side=8)
    assert gains == pytest.approx(dict.fromkeys(AXES, 0.5), abs=1e-5)


def test_psnr_along_the_axes_worked_out_by_hand() -> None:
    """Red is 0.1 too high: 0.1 / sqrt(3), 0.1 / sqrt(2) and 0.1 / sqrt(6) along the axes."""
    reference = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    result = reference.clone()
    result[:, 0] += 0.1
    expected = {"grey": 20 + 10 * math.log10(3), "orange_blue": 20 + 10 * math.log10(2)}
    expected["magenta_green"] = 20 + 10 * math.log10(6)
    for axis, value in expected.items():
        assert axis_psnr(reference, result, axis).tolist() == pytest.approx([value, value], abs=1e-3)


def test_images_of_different_shape() -> None:
    with pytest.raises(ValueError, match="only images of equal shape"):
        axis_psnr(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9), "grey")
