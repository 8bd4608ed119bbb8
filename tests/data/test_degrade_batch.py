"""A batch that is degraded at once, against single samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffusers_sr.data.degradation import degrade, degrade_batch
from diffusers_sr.data.degradation_settings import DegradationConfig
from tests.data.samples import NEUTRAL, generator


def statistics(images: torch.Tensor) -> torch.Tensor:
    """Mean, deviation, energies of the gradients and steps at JPEG's blocks, of [batch, 3, height, width] each."""
    along, across = images.diff(dim=-1).square(), images.diff(dim=-2).square()
    border = along[..., 7::8].mean((1, 2, 3)) - along[..., 3::8].mean((1, 2, 3))
    moments = (images.mean((1, 2, 3)), images.std((1, 2, 3)), along.mean((1, 2, 3)), across.mean((1, 2, 3)), border)
    return torch.stack(moments, dim=1)


def distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """How far apart two sets of samples are, in standard errors, by mean and by mean square of each statistic."""
    moments = [torch.cat([values, values.square()], dim=1) for values in (statistics(first), statistics(second))]
    first_variance, second_variance = (values.var(0) / len(values) for values in moments)
    error = (first_variance + second_variance).sqrt()
    return (moments[0].mean(0) - moments[1].mean(0)).abs() / error


def check_distribution(photo: torch.Tensor, device: str) -> None:
    count, image, config = 200, photo[:, :64, 48:112], DegradationConfig()
    images, seeds = image.to(device).expand(count, -1, -1, -1), torch.arange(count) + 10**6
    alone = torch.stack([degrade(image, generator(seed)) for seed in range(count)])
    # Ten numbers, each normal: one in 1600 such tests would fail, if seeds were not fixed.
    assert distances(alone, degrade_batch(images, seeds, config).cpu()).max() < 4
    stronger = replace(config, second=replace(config.second, jpeg_quality=(5.0, 30.0)))
    assert distances(alone, degrade_batch(images, seeds, stronger).cpu()).max() > 4, "a difference is found"


def test_a_batch_has_the_distribution_of_single_samples(photo: torch.Tensor) -> None:
    check_distribution(photo, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_has_the_distribution_of_single_samples_on_a_gpu(photo: torch.Tensor) -> None:
    check_distribution(photo, "cuda")


def test_a_sample_of_a_batch_depends_on_its_seed_alone(photo: torch.Tensor) -> None:
    images = torch.stack([photo[:, :32, :32], photo[:, 32:64, :32], photo[:, :32, :32]])
    result = degrade_batch(images, torch.tensor([3, 4, 5]))
    assert result.shape == (3, 3, 8, 8)
    assert torch.equal(degrade_batch(images[1:2], torch.tensor([4])), result[1:2])
    assert not torch.equal(result[0], result[2])


def test_noise_of_a_batch_is_of_pixels_at_the_final_size() -> None:
    """1024 pixels of deviation 20 in each sample, as `degrade` has them."""
    noise = replace(NEUTRAL, gaussian_noise_sigma=(20, 20), gray_noise_probability=1)
    config = DegradationConfig(first=NEUTRAL, second=noise, final_sinc_probability=0)
    result = degrade_batch(torch.full((4, 3, 128, 128), 0.5), torch.arange(4), config)
    assert (result.std((1, 2, 3)) * 255).tolist() == pytest.approx([20] * 4, rel=0.1)
    assert (result.mean((1, 2, 3)) * 255).tolist() == pytest.approx([127.5] * 4, abs=3)
    assert not torch.equal(result[0], result[1])
