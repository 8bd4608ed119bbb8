"""Blur kernels, and the blur with them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from diffusers_sr.data.kernels import blur, gaussian_kernel, plateau_kernel, reflect_pad, sinc_kernel


@pytest.mark.parametrize("size", [7, 21])
@pytest.mark.parametrize(
    "kernel",
    [
        lambda size: gaussian_kernel(size, (1.2, 1.2)),
        lambda size: gaussian_kernel(size, (2.0, 0.5), 0.7),
        lambda size: gaussian_kernel(size, (2.0, 0.5), 0.7, shape=0.5),
        lambda size: plateau_kernel(size, (2.0, 0.5), 0.7, shape=2.0),
        lambda size: sinc_kernel(size, math.pi / 3),
    ],
)
def test_kernels_sum_to_one_and_are_point_symmetric(kernel: Callable[[int], torch.Tensor], size: int) -> None:
    values = kernel(size)
    assert values.shape == (size, size)
    assert values.sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(values, values.flip(0, 1))
    assert values.argmax() == size * size // 2, "the centre weighs most"


@pytest.mark.parametrize(
    "kernel", [gaussian_kernel(9, (1.5,) * 2), plateau_kernel(9, (1.5,) * 2), sinc_kernel(9, 2.0)]
)
def test_isotropic_kernels_do_not_change_when_turned(kernel: torch.Tensor) -> None:
    torch.testing.assert_close(kernel, kernel.rot90())
    torch.testing.assert_close(kernel, kernel.T)


def test_gaussian_has_its_deviations_along_its_axes() -> None:
    sigma, angle = (3.0, 1.5), 0.6
    kernel = gaussian_kernel(41, sigma, angle)
    y, x = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
    along, across = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    assert (kernel * along**2).sum().sqrt().item() == pytest.approx(sigma[0], rel=1e-3)
    assert (kernel * across**2).sum().sqrt().item() == pytest.approx(sigma[1], rel=1e-3)


def test_shapes_of_generalised_and_plateau_kernels() -> None:
    centre = 10
    tails = [gaussian_kernel(21, (2.0,) * 2, shape=shape)[centre, -1] for shape in (0.5, 1.0, 4.0)]
    assert tails[0] > tails[1] > tails[2], "smaller shapes have heavier tails"
    flat = plateau_kernel(21, (4.0,) * 2, shape=2.0)
    assert flat[centre, centre + 1] / flat[centre, centre] > 0.99
    # Value at one deviation: exp(-1/2) of the gaussian's top and 1/2 of the plateau's, whatever the shape.
    for shape in (0.5, 1.0, 2.0):
        gaussian, plateau = (make(21, (4.0,) * 2, shape=shape) for make in (gaussian_kernel, plateau_kernel))
        assert (gaussian[centre, centre + 4] / gaussian[centre, centre]).item() == pytest.approx(
            math.exp(-0.5), rel=1e-4
        )
        assert (plateau[centre, centre + 4] / plateau[centre, centre]).item() == pytest.approx(0.5, rel=1e-4)


def test_sinc_passes_below_its_cutoff_and_stops_above() -> None:
    response = torch.fft.fft2(sinc_kernel(63, math.pi / 2), s=(128, 128)).abs()[0]  # cutoff at a quarter of the rate
    assert response[:24].min() > 0.9
    assert response[40:64].max() < 0.1
    assert sinc_kernel(21, math.pi / 2).min() < 0, "it rings"


def test_blur_is_convolution_with_mirrored_borders(photo: torch.Tensor) -> None:
    kernel = gaussian_kernel(21, (3.0, 1.0), 0.5)
    padded = F.pad(photo[:, :33, :50], (10,) * 4, mode="reflect")
    torch.testing.assert_close(
        blur(photo[:, :33, :50], kernel), F.conv2d(padded[:, None], kernel[None, None])[:, 0], atol=2e-6, rtol=0
    )


def test_mirroring_goes_on_beyond_the_image() -> None:
    image = torch.arange(3.0).view(1, 1, 3)
    assert reflect_pad(image, 5)[0, 0].tolist() == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]
    torch.testing.assert_close(blur(image, gaussian_kernel(21, (2.0,) * 2)).mean(), image.mean(), atol=0.1, rtol=0)
