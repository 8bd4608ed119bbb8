from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from skimage import data

from diffusers_sr.evaluation.haarpsi import haarpsi


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """[1, 3, 129, 143] in [0, 1]."""
    return torch.from_numpy(data.astronaut()[60:189, 150:293].copy()).permute(2, 0, 1)[None].float() / 255


def soft(photo: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(photo, 3, stride=1, padding=1, count_include_pad=False)


def noisy(photo: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    return (photo + 0.05 * noise).clamp(0, 1)


def with_red_and_blue_exchanged(photo: torch.Tensor) -> torch.Tensor:
    return photo.flip(1)


@pytest.mark.parametrize(
    ("damage", "published"), [(soft, 0.941816), (noisy, 0.891015), (with_red_and_blue_exchanged, 0.913555)]
)
def test_equals_piq(photo: torch.Tensor, damage: Callable[[torch.Tensor], torch.Tensor], published: float) -> None:
    """The numbers are those of piq 0.8.0."""
    assert haarpsi(photo, damage(photo)).item() == pytest.approx(published, abs=1e-4)


def test_a_single_block_worked_out_by_hand() -> None:
    """One block of 2 x 2 pixels of brightness v in black, halved to a single pixel, against black alone.

    The wavelets of level j that reach it, 4^j in number, give v / 2^j in both directions. With v = sqrt(120) the
    similarities to 0 are 30 / (30 + 30) at 4 places of level 1, and 30 / (7.5 + 30) at 16 of level 2, which hold
    these. So of the 64 places with a weight, which is the same, 4 have (0.5 + 0.8) / 2, 12 have (1 + 0.8) / 2 and 48
    have 1, in either direction; the colour, which is grey, has 1 at all 64.
    With l(x) = 1 / (1 + exp(-4.2 x)) the mean is (8 l(0.65) + 24 l(0.9) + 160 l(1)) / 192 = 0.982348, and
    (log(0.982348 / 0.017652) / 4.2)^2 = 0.915712.
    """
    black = torch.zeros(1, 3, 40, 40)
    block = black.clone()
    block[..., 20:22, 20:22] = 120**0.5 / 255
    assert haarpsi(black, block).item() == pytest.approx(0.915712, abs=1e-4)


def test_equal_images_and_a_batch(photo: torch.Tensor) -> None:
    values = haarpsi(torch.cat([photo, photo]), torch.cat([photo, soft(photo)]))
    assert values.tolist() == pytest.approx([1.0, 0.941816], abs=1e-4)


def test_images_without_an_edge() -> None:
    black = torch.zeros(1, 3, 16, 16)
    assert haarpsi(black, black).item() == pytest.approx(1, abs=1e-5)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="only images of equal shape"):
        haarpsi(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 31))
    with pytest.raises(ValueError, match=r"16x15 pixels are too few.*at least 16"):
        haarpsi(torch.rand(1, 3, 15, 16), torch.rand(1, 3, 15, 16))
