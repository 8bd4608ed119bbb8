from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage import color, data, metrics

from diffusers_sr.evaluation.measures import (
    evaluate,
    gmsd,
    log_power_spectrum_distance,
    luma,
    mean_color_difference,
    psnr_y,
    radial_log_power_spectrum,
    ssim_y,
)

Measure = Callable[..., torch.Tensor]
MEASURES: tuple[Measure, ...] = (psnr_y, ssim_y, gmsd, log_power_spectrum_distance, mean_color_difference)


def to_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A photo and a noisy, blurred copy of it, uint8 [90, 121, 3]."""
    photo = data.astronaut()[100:190, 150:271]
    blurred = ndimage.gaussian_filter(photo.astype(float), (1, 1, 0))
    noise = np.random.default_rng(0).normal(0, 4, photo.shape)
    return photo, np.clip(blurred + noise, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("crop_border", [0, 4])
def test_psnr_and_ssim_equal_scikit_image(pair: tuple[np.ndarray, np.ndarray], crop_border: int) -> None:
    inside = slice(crop_border, -crop_border or None)
    first, second = (color.rgb2ycbcr(image)[inside, inside, 0] for image in pair)
    psnr = metrics.peak_signal_noise_ratio(first, second, data_range=255)
    ssim = metrics.structural_similarity(
        first, second, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    reference, result = map(to_tensor, pair)
    assert psnr_y(reference, result, crop_border).item() == pytest.approx(psnr, abs=1e-3)
    assert ssim_y(reference, result, crop_border).item() == pytest.approx(ssim, abs=1e-4)


def test_psnr_is_of_video_range_luma(pair: tuple[np.ndarray, np.ndarray]) -> None:
    full_range = [255 * color.rgb2gray(image, channel_axis=-1) for image in pair]
    luma = [image.astype(float) @ [0.299, 0.587, 0.114] for image in pair]
    psnr = metrics.peak_signal_noise_ratio(*luma, data_range=255)
    reference, result = map(to_tensor, pair)
    assert psnr_y(reference, result).item() - psnr == pytest.approx(1.3219, abs=1e-3)
    assert np.abs(full_range[0] - luma[0]).max() > 1, "scikit-image's grey is another luma (BT.709)"


def test_gmsd_is_the_published_formula(pair: tuple[np.ndarray, np.ndarray]) -> None:
    magnitudes = []
    for image in pair:
        luma = image.astype(float) @ [0.299, 0.587, 0.114]
        halved = luma[:, :120].reshape(45, 2, 60, 2).mean((1, 3))
        kernel = np.array([[1, 0, -1]] * 3) / 3
        gradients = [ndimage.convolve(halved, k, mode="constant") for k in (kernel, kernel.T)]
        magnitudes.append(np.hypot(*gradients))
    first, second = magnitudes
    similarity = (2 * first * second + 170) / (first**2 + second**2 + 170)
    assert gmsd(*map(to_tensor, pair)).item() == pytest.approx(similarity.std(), abs=1e-5)


def test_power_spectrum_of_white_noise_is_its_variance() -> None:
    noise = 0.5 + 0.1 * torch.randn(8, 1, 64, 96, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    spectrum = radial_log_power_spectrum(noise)
    assert spectrum.shape == (8, 32)
    # The logarithm of an exponential variable of mean v has the mean log v - 0.5772 (Euler's constant).
    assert spectrum[:, 4:].mean().item() == pytest.approx(math.log(0.01) - 0.5772, abs=0.05)


def test_power_spectrum_distance_counts_in_log_units_at_every_frequency() -> None:
    noise = 0.1 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    distance = log_power_spectrum_distance(0.5 + noise, 0.5 + noise / math.sqrt(2))
    assert distance.item() == pytest.approx(math.log(2), abs=0.01)


def test_power_spectrum_finds_a_wave_at_its_frequency() -> None:
    wave = 0.5 + 0.4 * torch.sin(2 * math.pi * torch.arange(96) * 20 / 80).expand(1, 3, 80, 96)
    assert radial_log_power_spectrum(wave)[0].argmax() == 19


def test_power_spectrum_distance_of_blur_and_of_noise(pair: tuple[np.ndarray, np.ndarray]) -> None:
    photo = to_tensor(pair[0])
    small = F.interpolate(photo[..., :120], size=(24, 30), mode="area")
    restored = F.interpolate(small, size=(90, 120), mode="bicubic")
    noisy = photo + 0.1 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    assert log_power_spectrum_distance(photo[..., :120], restored).item() > 1
    assert log_power_spectrum_distance(photo, noisy).item() > 0.5


def test_mean_color_difference_is_the_worst_channel_in_8_bit_units() -> None:
    reference = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    result = reference + torch.tensor([[1.0, -3, 2], [0, 0, 0.5]])[:, :, None, None] / 255
    torch.testing.assert_close(mean_color_difference(reference, result), torch.tensor([3.0, 0.5]), atol=1e-4, rtol=0)


def grey(*values: float, side: int = 12) -> torch.Tensor:
    """Flat images."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, side, side)


def test_measures_of_flat_images_worked_out_by_hand() -> None:
    reference, result = grey(0.2, 0.5), grey(0.6, 0.5 + 1 / 255)
    # Differences of Y of 219 · 0.4 = 87.6 and 219 / 255 = 0.858824: 20 log10(255 / 87.6), 20 log10(255² / 219).
    torch.testing.assert_close(psnr_y(reference, result), torch.tensor([9.2806, 49.4527]), atol=2e-3, rtol=0)
    # No variance: (2 a b + 6.5025) / (a² + b² + 6.5025) of the Y, 16 + 219 · 0.2 = 59.8 and 147.4.
    assert ssim_y(reference, result)[0].item() == pytest.approx(0.696801, abs=1e-4)
    torch.testing.assert_close(mean_color_difference(reference, result), torch.tensor([102.0, 1.0]), atol=1e-3, rtol=0)


def test_luma_weighs_the_channels_by_bt_601() -> None:
    red, green, blue = torch.eye(3)[:, :, None, None].expand(3, 3, 2, 2).split(1)
    assert [luma(image)[0, 0, 0].item() for image in (red, green, blue)] == pytest.approx([0.299, 0.587, 0.114])


def test_gmsd_of_a_single_block_worked_out_by_hand() -> None:
    """One block of brightness v in black, halved to one of 3 × 3 pixels, against black alone.

    Its gradients are 255 v / 3 at its sides, sqrt(2) of that at its corners and 0 in the middle. With 255 v / 3 =
    sqrt(170) the similarities are four times 170 / 340, four times 170 / 510, and 1: of mean 0.481481 and mean
    square 0.271605.
    """
    black = torch.zeros(1, 3, 6, 6)
    block = black.clone()
    block[..., 2:4, 2:4] = 3 * math.sqrt(170) / 255
    assert gmsd(black, block).item() == pytest.approx(math.sqrt(0.271605 - 0.481481**2), abs=1e-5)


def test_a_border_is_left_out() -> None:
    reference = grey(0.5, side=16)
    framed = reference.clone()
    framed[..., 2:-2, 2:-2] += 1 / 255
    # Without the two outer pixels all of it differs by one level; with them 12² of 16² pixels do.
    assert psnr_y(reference, framed, 2).item() == pytest.approx(49.4527, abs=2e-3)
    assert psnr_y(reference, framed).item() == pytest.approx(49.4527 + 20 * math.log10(16 / 12), abs=2e-3)
    assert ssim_y(reference, framed, 2).item() == pytest.approx(ssim_y(*grey(0.5, 0.5 + 1 / 255).split(1)).item())


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_images(measure: Measure, pair: tuple[np.ndarray, np.ndarray]) -> None:
    image = to_tensor(pair[0])
    best: dict[Measure, float] = {psnr_y: math.inf, ssim_y: 1.0}
    assert measure(image, image).item() == pytest.approx(best.get(measure, 0.0), abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_an_image_is_measured_the_same_in_a_batch(measure: Measure, pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, result = map(to_tensor, pair)
    batch = measure(torch.cat([reference, result]), torch.cat([result, result]))
    assert batch.shape == (2,)
    torch.testing.assert_close(batch[:1], measure(reference, result), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_images_that_do_not_fit(measure: Measure) -> None:
    with pytest.raises(ValueError, match=r"\[1, 3, 32, 32\] and the result \[1, 3, 32, 31\]"):
        measure(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 31))
    with pytest.raises(ValueError, match=r"have to be \[batch, 3, height, width\]"):
        measure(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32))


def test_too_small_for_the_window() -> None:
    with pytest.raises(ValueError, match=r"12x12 pixels are too few.*needs at least 13"):
        ssim_y(torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12), crop_border=1)


def test_evaluate_gives_every_measure_as_a_float(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, result = map(to_tensor, pair)
    values = evaluate(reference, result)
    assert values == {measure.__name__: measure(reference, result).item() for measure in MEASURES}


def test_evaluate_takes_the_mean_over_a_batch() -> None:
    values = evaluate(grey(0.2, 0.5), grey(0.6, 0.5 + 1 / 255))
    assert list(values) == ["psnr_y", "ssim_y", "gmsd", "log_power_spectrum_distance", "mean_color_difference"]
    assert values["mean_color_difference"] == pytest.approx((102 + 1) / 2, abs=1e-3)
    assert values["psnr_y"] == pytest.approx((9.2806 + 49.4527) / 2, abs=2e-3)
