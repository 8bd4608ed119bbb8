"""Unsharp masking of the training target."""

from __future__ import annotations

import pytest
import torch

from diffusers_sr.data.sharpening import usm_sharpen
from tests.data.samples import psnr


def test_sharpening_steepens_edges_and_leaves_weak_detail() -> None:
    edge = torch.full((3, 96, 96), 0.3)
    edge[:, :, 48:] = 0.7
    sharp = usm_sharpen(edge)
    assert sharp[0, 48, 48] > 0.75 and sharp[0, 48, 47] < 0.25
    weak = 0.5 + 0.02 * (edge - 0.5)
    torch.testing.assert_close(usm_sharpen(weak), weak, atol=1e-5, rtol=0)


def test_sharpening_of_a_batch_is_that_of_its_images(photo: torch.Tensor) -> None:
    batch = torch.stack([photo, photo.flip(-1)])
    sharp = usm_sharpen(batch)
    assert sharp.shape == batch.shape and sharp.min() >= 0 and sharp.max() <= 1
    torch.testing.assert_close(sharp[0], usm_sharpen(photo), atol=1e-5, rtol=0)
    torch.testing.assert_close(sharp[1], usm_sharpen(photo).flip(-1), atol=1e-5, rtol=0)
    assert psnr(sharp[0], photo) < 35


def edge(left: float, right: float, half: int = 4) -> torch.Tensor:
    """[3, 8, 2 · half]: columns of two values."""
    return torch.tensor([*[left] * half, *[right] * half]).expand(3, 8, -1)


def assert_columns(image: torch.Tensor, *expected: float) -> None:
    torch.testing.assert_close(image, torch.tensor(expected).expand(3, 8, -1), atol=2e-6, rtol=0)


# A kernel of 3 pixels has the deviation 0.8. exp(-1 / 1.28) = 0.457833, so its weights are 0.238994, 0.522011 and
# 0.238994. An edge of height h has the detail ±0.238994 h on its two sides, where the mask, blurred as well, is
# 0.522011 + 0.238994 = 0.761005; one pixel further there is no detail.
def test_the_detail_of_an_edge_is_added_behind_a_soft_mask() -> None:
    # 0.761005 · 0.5 · 0.238994 · 0.4 = 0.036375
    expected = (0.3, 0.3, 0.3, 0.263625, 0.736375, 0.7, 0.7, 0.7)
    assert_columns(usm_sharpen(edge(0.3, 0.7), kernel_size=3), *expected)
    # Twice that, with the whole detail.
    expected = (0.3, 0.3, 0.3, 0.227250, 0.772750, 0.7, 0.7, 0.7)
    assert_columns(usm_sharpen(edge(0.3, 0.7), strength=1.0, kernel_size=3), *expected)


def test_what_leaves_the_range_is_cut_off_before_it_is_masked() -> None:
    # 0.05 - 0.5 · 0.238994 · 0.9 is below 0: from 0.05 to 0 by the mask, 0.05 · (1 - 0.761005) = 0.011950.
    expected = (0.05, 0.05, 0.05, 0.011950, 0.988050, 0.95, 0.95, 0.95)
    assert_columns(usm_sharpen(edge(0.05, 0.95), kernel_size=3), *expected)


@pytest.mark.parametrize(("detail", "change"), [(9, 0.0), (11, 0.761005 * 0.5 * 11 / 255)])
def test_detail_up_to_ten_levels_of_brightness_is_left_as_it_is(detail: float, change: float) -> None:
    right = 0.4 + detail / 255 / 0.238994
    expected = (0.4, 0.4, 0.4, 0.4 - change, right + change, right, right, right)
    assert_columns(usm_sharpen(edge(0.4, right), kernel_size=3), *expected)
    # With a threshold of half of it either is sharpened.
    change = 0.761005 * 0.5 * detail / 255
    expected = (0.4, 0.4, 0.4, 0.4 - change, right + change, right, right, right)
    assert_columns(usm_sharpen(edge(0.4, right), kernel_size=3, threshold=detail / 2), *expected)


def test_the_kernel_of_51_pixels_has_a_deviation_of_8() -> None:
    """An edge from 0.3 to 0.7 by the normal distribution, cut off at 25.5 / 8 deviations, where it holds 0.99857.

    Right of the edge the detail is 0.4 (0.5 - 0.0499 / 2) = 0.1900, with 0.0499 the weight of the middle pixel. It is
    above 10 / 255 on ten columns on each side, so that the mask is
    (P(9.5 / 8) + P(10.5 / 8) - 1) / 0.99857 = 0.7889, and the pixel 0.7 + 0.5 · 0.1900 · 0.7889.
    """
    sharp = usm_sharpen(edge(0.3, 0.7, half=48))
    assert sharp[0, 4, 48].item() == pytest.approx(0.77495, abs=5e-4)
    assert sharp[0, 4, 47].item() == pytest.approx(0.22505, abs=5e-4)
