from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data

from diffusers_sr.evaluation.fidelity import psnr, ssim
from diffusers_sr.evaluation.measures import psnr_y, ssim_y

WEIGHTS = {"ycbcr": (np.array([65.481, 128.553, 24.966]), 16.0), "yiq": (np.array([76.245, 149.685, 29.07]), 0.0)}


def photo_pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """20 crops of photos, and blurred, noisy copies of them, uint8 [40, 48, 3]."""
    random = np.random.default_rng(0)
    for photo in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket()):
        for number in range(5):
            top, left = (random.integers(length - side) for length, side in zip(photo.shape, (40, 48), strict=False))
            crop = photo[top : top + 40, left : left + 48]
            blurred = ndimage.gaussian_filter(crop.astype(float), (number / 2, number / 2, 0))
            yield crop, np.clip(blurred + random.normal(0, 2 + number, crop.shape), 0, 255).round().astype(np.uint8)


def plane(image: np.ndarray, space: str) -> np.ndarray:
    """What is compared, float64 in 0 to 255."""
    weights, offset = WEIGHTS[space]
    return (image / 255) @ weights + offset


def independent_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """The formula of Wang et al. by moments of whole windows; none of this package."""
    window = np.exp(-(np.hypot(*np.mgrid[-5:6, -5:6]) ** 2) / 4.5)
    window /= window.sum()
    views = [np.lib.stride_tricks.sliding_window_view(image.round(), (11, 11)) for image in (first, second)]
    means = [(view * window).sum((2, 3)) for view in views]
    centred = [view - mean[..., None, None] for view, mean in zip(views, means, strict=True)]
    variances = [(view**2 * window).sum((2, 3)) for view in centred]
    covariance = (centred[0] * centred[1] * window).sum((2, 3))
    luminance = (2 * means[0] * means[1] + 2.55**2) / (means[0] ** 2 + means[1] ** 2 + 2.55**2)
    structure = (2 * covariance + 7.65**2) / (variances[0] + variances[1] + 7.65**2)
    return float((luminance * np.maximum(structure, 0)).mean())


def to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize(("space", "crop_border"), [("ycbcr", 0), ("ycbcr", 4), ("yiq", 0)])
def test_twenty_pairs_measured_by_another_implementation(space, crop_border):
    inside = slice(crop_border, -crop_border or None)
    pairs = list(photo_pairs())
    assert len(pairs) == 20
    for pair in pairs:
        first, second = (plane(image, space)[inside, inside] for image in pair)
        reference, result = map(to_tensor, pair)
        error = ((first - second) ** 2).mean() / 255**2
        expected = 10 * np.log10(1 / (error + 1e-8))
        assert psnr(reference, result, space, crop_border).item() == pytest.approx(expected, abs=1e-4)
        assert ssim(reference, result, space, crop_border).item() == pytest.approx(
            independent_ssim(first, second), abs=1e-4
        )


def test_the_values_of_the_first_and_the_last_pair():
    """Computed once by the other implementation."""
    first, *_, last = photo_pairs()
    pairs = [(to_tensor(reference), to_tensor(result)) for reference, result in (first, last)]
    values = [f(reference, result).item() for reference, result in pairs for f in (psnr, ssim)]
    assert values == pytest.approx([48.136969, 0.989116, 30.238569, 0.754595], abs=2e-6)


def test_equal_images_have_80_db_and_similarity_1():
    image = torch.rand(2, 3, 12, 13, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(psnr(image, image), torch.full((2,), 80.0, dtype=torch.float64))
    torch.testing.assert_close(ssim(image, image, "rgb"), torch.ones(2, dtype=torch.float64))


def test_flat_images_worked_out_by_hand():
    first, second = (torch.full((1, 3, 11, 11), value) for value in (0.2, 0.6))
    # Y is 59.8 and 147.4, so 60 and 147: (2 · 60 · 147 + 6.5025) / (60² + 147² + 6.5025).
    assert ssim(first, second).item() == pytest.approx(0.699828, abs=1e-6)
    # Y differs by 87.6: 20 log10(255 / 87.6).
    assert psnr(first, second).item() == pytest.approx(9.28072, abs=1e-5)
    assert psnr(first, second, "yiq").item() == pytest.approx(20 * np.log10(1 / 0.4), abs=1e-5)


def test_of_three_channels_the_errors_are_averaged():
    first = torch.full((1, 3, 11, 11), 0.5)
    second = first.clone()
    second[:, 0] += 0.1
    assert psnr(first, second, "rgb").item() == pytest.approx(10 * np.log10(300), abs=1e-4)
    # Two channels are equal, one is 128 and 153.
    one = (2 * 128 * 153 + 6.5025) / (128**2 + 153**2 + 6.5025)
    assert ssim(first, second, "rgb").item() == pytest.approx((2 + one) / 3, abs=1e-6)


def test_opposite_structures_are_not_similar_at_all():
    rows, columns = np.mgrid[:12, :12]
    board = torch.from_numpy(0.3 + 0.4 * ((rows + columns) % 2)).float().expand(1, 3, -1, -1)
    assert ssim_y(board, 1 - board).item() < -0.9
    assert ssim(board, 1 - board).item() == 0


def test_a_crop_leaves_out_the_border():
    first = torch.full((1, 3, 19, 19), 0.5)
    second = first.clone()
    second[..., :4, :] = 0
    assert psnr(first, second, crop_border=4).item() == pytest.approx(80)
    assert ssim(first, second, crop_border=4).item() == 1
    with pytest.raises(ValueError, match="each side needs at least 19"):
        ssim(first[..., 1:], second[..., 1:], crop_border=4)


def test_the_difference_to_the_plain_formulas():
    *_, last = photo_pairs()
    reference, result = map(to_tensor, last)
    assert psnr(reference, result).item() == pytest.approx(psnr_y(reference, result).item(), abs=1e-3)
    assert ssim(reference, result).item() == pytest.approx(ssim_y(reference, result).item(), abs=1e-2)
