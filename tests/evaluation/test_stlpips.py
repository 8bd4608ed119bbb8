from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from skimage import data

from diffusers_sr.evaluation.stlpips import STLPIPS, load_stlpips

is_installed = find_spec("stlpips_pytorch") is not None


def soft(photo: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(photo, 3, stride=1, padding=1, count_include_pad=False)


def noisy(photo: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    return (photo + 0.05 * noise).clamp(0, 1)


def with_red_and_blue_exchanged(photo: torch.Tensor) -> torch.Tensor:
    return photo.flip(1)


@pytest.mark.skipif(not is_installed, reason="the package that holds the weights is not installed")
@pytest.mark.parametrize(
    ("damage", "published"), [(soft, 0.123531), (noisy, 0.169154), (with_red_and_blue_exchanged, 0.293176)]
)
def test_equals_the_authors_code(damage: Callable[[torch.Tensor], torch.Tensor], published: float) -> None:
    """The numbers are those of stlpips_pytorch 0.0.2, `LPIPS(net="alex", variant="shift_tolerant")`."""
    photo = torch.from_numpy(data.astronaut()[60:189, 150:293].copy()).permute(2, 0, 1)[None].float() / 255
    assert load_stlpips()(photo, damage(photo)).item() == pytest.approx(published, abs=1e-5)


@pytest.mark.skipif(is_installed, reason="the package that holds the weights is installed")
def test_without_the_weights() -> None:
    with pytest.raises(ModuleNotFoundError, match="pip install stlpips_pytorch"):
        load_stlpips()


@torch.no_grad()
def test_two_colours_worked_out_by_hand() -> None:
    """The first convolution passes red, green and blue on, and its features alone have weights: 2, 3 and 4.

    The standardised colours are (1, 0, 0) and (0, 5, 0), of which only the direction counts: 2 + 3. The third one is
    (1, 1, 0), whose direction is (1, 1, 0) / sqrt(2): 2 (1 - 1 / sqrt(2))^2 + 3 / 2.
    """
    network = STLPIPS()
    for parameter in network.convolutions[0].parameters():
        parameter.zero_()
    for channel in range(3):
        network.get_parameter("convolutions.0.weight")[channel, channel, 5, 5] = 1
    network.channel_weights[0][:3] = torch.tensor([2.0, 3.0, 4.0])

    mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    red, green, yellow = (
        ((deviation * torch.tensor(color) + mean + 1) / 2)[None, :, None, None].expand(1, 3, 24, 32)
        for color in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0))
    )
    assert network(red, green).item() == pytest.approx(5, abs=1e-4)
    assert network(red, yellow).item() == pytest.approx(2 * (1 - 0.5**0.5) ** 2 + 1.5, abs=1e-4)
    both = network(torch.cat([red, red]), torch.cat([red, green]))
    assert both.tolist() == pytest.approx([0, 5], abs=1e-4)


def test_images_that_are_too_small() -> None:
    with pytest.raises(ValueError, match="each side needs at least 21"):
        STLPIPS()(torch.rand(1, 3, 20, 30), torch.rand(1, 3, 20, 30))
    STLPIPS()(torch.rand(1, 3, 21, 21), torch.rand(1, 3, 21, 21))
