"""Losses that compare a picture with a photograph otherwise than pixel by pixel."""

import pytest
import torch
from torch.nn import functional

from diffusers_sr.evaluation.haarpsi import haarpsi
from diffusers_sr.training.judgement import (
    Judgement,
    LatentGrid,
    Overshoot,
    ShiftTolerantDistance,
    WaveletSimilarity,
)


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 32, 32, generator=generator)
    return target, (target + 0.2 * torch.randn(target.shape, generator=generator)).clamp(0, 1)


def test_the_wavelet_loss_is_the_weighted_distance_to_1() -> None:
    target, picture = pictures()
    loss = WaveletSimilarity(0.5)
    assert loss(target, target)["haarpsi"].item() == pytest.approx(0, abs=1e-5)
    expected = 0.5 * (1 - haarpsi(target, picture).mean().item())
    assert 0.05 < expected == pytest.approx(loss(picture, target)["haarpsi"].item(), abs=1e-6)


def test_the_wavelet_loss_shows_the_way() -> None:
    target, picture = pictures()
    picture.requires_grad_(True)
    loss = WaveletSimilarity(1.0)
    (gradient,) = torch.autograd.grad(loss(picture, target)["haarpsi"], picture)
    assert loss(picture - gradient, target)["haarpsi"] < loss(picture, target)["haarpsi"]


def test_a_judgement_in_numbers() -> None:
    """A discriminator of one layer that copies red, and whose score is twice the copy."""
    judgement = Judgement(feature_weight=3.0, adversarial_weight=5.0)
    first = torch.nn.Conv2d(3, 32, 3, padding=1)
    judgement.discriminator.levels = torch.nn.ModuleList([first])
    judgement.discriminator.score = torch.nn.Conv2d(32, 1, 1)
    with torch.no_grad():
        for parameter in judgement.discriminator.parameters():
            parameter.zero_()
        first.weight[0, 0, 1, 1] = 1
        judgement.discriminator.score.weight[0, 0] = 2
    red, black = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    red[:, 0] = 1
    losses = {name: value.item() for name, value in judgement(black, red).items()}
    # In [-1, 1] red's first channel is 1, and black's -1, of which the leaky rectifier leaves -0.2: scores 2 and -0.4.
    assert losses == pytest.approx({"feature": 3 * 1.2 / 32, "adversarial": 5 * 0.4, "discriminator": 0 + 0.6})


def test_the_learned_distance_of_the_first_pictures() -> None:
    pytest.importorskip("stlpips_pytorch")
    target, picture = pictures()
    loss = ShiftTolerantDistance(2.0, most_samples=1).train()
    assert not loss.network.training and not any(each.requires_grad for each in loss.parameters())
    expected = 2 * loss.network(target[:1], picture[:1]).item()
    assert 0.01 < expected == pytest.approx(loss(picture, target)["stlpips"].item(), rel=1e-5)
    assert ShiftTolerantDistance(2.0)(picture, target)["stlpips"].item() != pytest.approx(expected, rel=1e-2)


def test_a_weave_of_the_latents_pitch_in_numbers() -> None:
    """One pixel in 16 is 0.16 too bright: its place is 0.15 above the mean of the places, the 15 others 0.01 below."""
    target = pictures()[0]
    weave = torch.zeros_like(target)
    weave[..., 1::4, 2::4] = 0.16
    loss = LatentGrid(2.0, 4)
    assert loss(target + weave, target)["grid"].item() == pytest.approx(2 * (0.15 + 15 * 0.01) / 16, rel=1e-4)
    # An error of the colour is none, and one of another pitch cancels out.
    assert loss(target + 0.1, target)["grid"].item() == pytest.approx(0, abs=1e-6)
    stripes = torch.zeros_like(target)
    stripes[..., ::3] = 0.12
    assert loss(target + stripes, target)["grid"].item() < 0.01


def test_overshoot_in_numbers() -> None:
    """An edge from 0.25 to 0.75, with an outline on either side that is 0.1 beyond it, in 2 of 32 columns."""
    target = torch.full((1, 3, 32, 32), 0.25)
    target[..., 16:] = 0.75
    picture = target.clone()
    picture[..., 15] -= 0.1
    picture[..., 16] += 0.1
    assert Overshoot(3.0)(picture, target)["overshoot"].item() == pytest.approx(3 * 0.1 * 2 / 32, rel=1e-5)
    soft = functional.avg_pool2d(target, (1, 7), stride=1, padding=(0, 3), count_include_pad=False)
    assert Overshoot(3.0)(soft, target)["overshoot"].item() == 0
