"""Mixtures of degradations, and the single order that is in them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import default_collate

from diffusers_sr.data import degradation
from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation import degrade, degrade_batch
from diffusers_sr.data.degradation_mixture import EVERYDAY, MEDIUM, MILD, DegradationMixture
from diffusers_sr.data.degradation_settings import DegradationConfig, DegradationOrder
from diffusers_sr.data.lists import list_images
from tests.data.samples import NEUTRAL, generator, psnr, tensor


def test_the_everyday_mixture() -> None:
    assert EVERYDAY.parts == (MILD, MEDIUM, DegradationConfig())
    assert EVERYDAY.probabilities == (0.4, 0.3, 0.3)
    both = {
        "kernel_sizes": (21,),
        "sinc_probability": 0.0,
        "kernel_probabilities": (0.5, 0.25, 0.0, 0.0, 0.25, 0.0),
        "generalised_shape": (0.5, 4.0),
        "plateau_shape": (1.0, 2.0),
        "resize_probabilities": (0.2, 0.7, 0.1),
        "resize_factor": (0.15, 1.5),
        "gray_noise_probability": 0.4,
    }
    assert asdict(MILD) == {
        **both,
        "blur_probability": 0.5,
        "sigma": (0.2, 2.0),
        "gaussian_noise_probability": 1.0,
        "gaussian_noise_sigma": (0.0, 5.0),
        "poisson_noise_scale": (0.05, 3.0),
        "jpeg_quality": (70.0, 98.0),
    }
    assert asdict(MEDIUM) == {
        **both,
        "blur_probability": 0.8,
        "sigma": (0.2, 4.0),
        "gaussian_noise_probability": 0.5,
        "gaussian_noise_sigma": (1.0, 15.0),
        "poisson_noise_scale": (0.05, 1.5),
        "jpeg_quality": (40.0, 90.0),
    }


@pytest.mark.parametrize("probabilities", [(0.5,), (0.5, 0.6), (-0.5, 1.5), ()])
def test_probabilities_that_do_not_fit_the_parts(probabilities: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="it has to hold 2 probabilities that sum to 1"):
        DegradationMixture((MILD, MEDIUM), probabilities)


def test_a_mixture_without_parts() -> None:
    with pytest.raises(ValueError, match="it has to hold 0 probabilities that sum to 1"):
        DegradationMixture((), ())


def test_parts_are_drawn_by_their_probabilities(photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Counter[str] = Counter()

    def one_order(image, size, order, generator, noise_generator):
        drawn[{MILD: "mild", MEDIUM: "medium"}[order]] += 1
        return image[:, : size[0], : size[1]]

    def two_orders(image, size, order, generator, noise_generator):
        drawn["first" if order == DegradationConfig().first else "second"] += 1
        return image

    monkeypatch.setattr(degradation, "_degrade_in_one_order", one_order)
    monkeypatch.setattr(degradation, "_degrade_once", two_orders)
    for seed in range(1000):
        degrade(photo[:, :8, :8], generator(seed), EVERYDAY)
    # Four standard deviations of a share of 1000 are 0.06.
    expected = {"mild": 0.4, "medium": 0.3, "first": 0.3, "second": 0.3}
    assert {name: count / 1000 for name, count in drawn.items()} == pytest.approx(expected, abs=0.06)


def test_a_mixture_of_one_is_that_one(photo: torch.Tensor) -> None:
    """After the draw of the part, which takes one number."""
    for part in EVERYDAY.parts:
        mixture = DegradationMixture((part,), (1.0,))
        after = generator(5)
        torch.multinomial(torch.ones(1, dtype=torch.float64), 1, generator=after)
        assert torch.equal(degrade(photo, generator(5), mixture), degrade(photo, after, part))


def test_a_neutral_order_reduces_with_antialiasing(photo: torch.Tensor) -> None:
    """It is one of three reductions, of which bicubic is the commonest, up to JPEG of quality 100."""
    found: Counter[str] = Counter()
    for seed in range(100):
        result = degrade(photo, generator(seed), NEUTRAL)
        reduced = {
            mode: F.interpolate(photo[None], size=(32, 36), mode=mode, antialias=mode != "area")[0].clamp(0, 1)
            for mode in ("bicubic", "bilinear", "area")
        }
        best = max(reduced, key=lambda mode: psnr(result, reduced[mode]))
        assert psnr(result, reduced[best]) > 30
        found[best] += 1
    assert {mode: found[mode] / 100 for mode in found} == pytest.approx(
        {"bicubic": 0.6, "bilinear": 0.2, "area": 0.2}, abs=0.16
    )


def test_the_steps_of_a_single_order(photo: torch.Tensor) -> None:
    """Each of them takes what is left of the photo further away."""
    reduced = F.interpolate(photo[None], size=(32, 36), mode="bicubic", antialias=True)[0].clamp(0, 1)

    def mean_psnr(order: DegradationOrder) -> float:
        return float(np.mean([psnr(degrade(photo, generator(seed), order), reduced) for seed in range(20)]))

    steps = [
        NEUTRAL,
        blurred := replace(NEUTRAL, blur_probability=1, sigma=(4, 4), sinc_probability=0),
        noisy := replace(blurred, gaussian_noise_sigma=(20, 20)),
        replace(noisy, jpeg_quality=(10, 10)),
    ]
    values = [mean_psnr(order) for order in steps]
    assert values[0] - values[1] > 3
    # Noise of 20/255 alone is 22.1 dB.
    assert values[1] - values[2] > 0.5
    assert values[2] < 22.5
    # JPEG halves the size of chroma, and so would soften noise that is not grey.
    noise_alone = replace(NEUTRAL, gaussian_noise_sigma=(20, 20), gray_noise_probability=1)
    assert mean_psnr(noise_alone) == pytest.approx(22.1, abs=0.7)


def test_mild_is_milder_than_medium_and_medium_than_two_orders(photo: torch.Tensor) -> None:
    reduced = F.interpolate(photo[None], size=(32, 36), mode="bicubic", antialias=True)[0].clamp(0, 1)
    mild, medium, heavy = (
        np.mean([psnr(degrade(photo, generator(seed), part), reduced) for seed in range(40)])
        for part in EVERYDAY.parts
    )
    assert mild > 29 and mild - medium > 3 and medium - heavy > 2


def test_sizes_range_and_batches(photo: torch.Tensor) -> None:
    images = photo[:, :64, :48].expand(6, -1, -1, -1)
    batch = degrade_batch(images, torch.arange(6), EVERYDAY)
    assert batch.shape == (6, 3, 16, 12)
    torch.testing.assert_close((batch * 255).round() / 255, batch)
    assert batch.min() >= 0 and batch.max() <= 1
    torch.testing.assert_close(batch[2:3], degrade_batch(images[2:3], torch.tensor([2]), EVERYDAY))


@pytest.mark.parametrize("degrade_later", [False, True])
def test_crops_of_a_mixture(tmp_path: Path, degrade_later: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    crops = PhotoCrops(
        list_images(tmp_path), 32, degradation=EVERYDAY, sharpen_target=False, degrade_later=degrade_later
    )
    sample = crops[0]
    if degrade_later:
        sample = crops.complete(default_collate([sample]))
    assert tensor(sample, "degraded").shape[-3:] == (3, 8, 8)
