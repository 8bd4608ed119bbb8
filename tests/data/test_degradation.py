"""The whole degradation, and its settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from diffusers_sr.data import degradation
from diffusers_sr.data.degradation import degrade
from diffusers_sr.data.degradation_settings import DegradationConfig
from tests.data.samples import NEUTRAL, generator, psnr


@pytest.mark.parametrize("height, width, scale", [(128, 144, 4), (64, 128, 2), (4, 4, 4), (8, 60, 4), (33, 21, 3)])
def test_sizes_and_range(photo: torch.Tensor, height: int, width: int, scale: int) -> None:
    for seed in range(8):
        result = degrade(photo[:, :height, :width], generator(seed), scale=scale)
        assert result.shape == (3, height // scale, width // scale)
        assert result.min() >= 0 and result.max() <= 1
        torch.testing.assert_close((result * 255).round() / 255, result)


def test_equal_seeds_give_equal_results(photo: torch.Tensor) -> None:
    before = photo.clone()
    first, again, other = (degrade(photo, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(photo, before)


class Degraded(Dataset[torch.Tensor]):
    def __init__(self, photo: torch.Tensor):
        self.photo = photo

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return degrade(self.photo, generator(index))


def test_workers_do_not_change_samples(photo: torch.Tensor) -> None:
    here, there = (list(DataLoader(Degraded(photo), batch_size=2, num_workers=workers)) for workers in (0, 2))
    assert torch.equal(torch.cat(here), torch.cat(there))


def test_nothing_is_drawn_from_the_global_generator(photo: torch.Tensor) -> None:
    state = torch.get_rng_state()
    degrade(photo, generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_from_its_own_source_leaves_the_parameters_alone(photo: torch.Tensor) -> None:
    """Noise takes more random numbers where it is Poisson's; what is drawn after it must not move."""
    quiet = DegradationConfig(
        first=replace(NEUTRAL, jpeg_quality=(30, 95)), second=replace(NEUTRAL, jpeg_quality=(30, 95))
    )
    first, second = (
        degrade(photo, generator(7), quiet, noise_generator=generator(seed).manual_seed(seed)) for seed in (1, 2)
    )
    assert torch.equal(first, second), "noise of no strength"
    noisy = DegradationConfig()
    first, second = (degrade(photo, generator(7), noisy, noise_generator=generator(seed)) for seed in (1, 2))
    assert not torch.equal(first, second)
    assert psnr(first, second) > 15


@pytest.mark.parametrize("stage", ["first", "second"])
@pytest.mark.parametrize(
    "change",
    [
        {"blur_probability": 1.0, "sigma": (2.0, 2.0)},
        {"resize_probabilities": (0, 1, 0), "resize_factor": (0.2, 1.0)},
        {"gaussian_noise_sigma": (20, 20)},
        {"gaussian_noise_probability": 0.0},
        {"jpeg_quality": (30, 30)},
    ],
    ids=["blur", "resize", "gaussian noise", "poisson noise", "jpeg"],
)
def test_each_stage_moves_the_image(photo: torch.Tensor, stage: str, change: dict[str, Any]) -> None:
    neutral = DegradationConfig(first=NEUTRAL, second=NEUTRAL, final_sinc_probability=0)
    changes: dict[str, Any] = {stage: replace(NEUTRAL, **change)}
    changed = replace(neutral, **changes)
    # Interpolations are drawn as well: over some seeds the stage has to matter for each.
    for seed in range(4):
        reference, result = (degrade(photo, generator(seed), config, scale=1) for config in (neutral, changed))
        assert psnr(reference, photo) > 38, "neutral settings leave all but JPEG's halved chroma"
        assert psnr(result, reference) < 40


@pytest.mark.parametrize("level", [1, 128, 200, 254])
def test_a_flat_colour_without_noise_stays_as_it_is(level: int) -> None:
    config = DegradationConfig(
        first=replace(NEUTRAL, resize_probabilities=(0.5, 0.5, 0)),
        second=replace(NEUTRAL, resize_probabilities=(0.5, 0.5, 0)),
        final_sinc_probability=0,
    )
    image = torch.full((3, 32, 32), level / 255)
    for seed in range(4):
        assert (degrade(image, generator(seed), config) * 255).unique().tolist() == pytest.approx([level])


GREY = torch.full((3, 128, 128), 0.5)
NOISE = replace(NEUTRAL, gaussian_noise_sigma=(20, 20), gray_noise_probability=1)


@pytest.mark.parametrize("seed", range(6))
def test_noise_of_the_second_order_is_of_pixels_at_the_final_size(seed: int) -> None:
    """The second order keeps the final size, so nothing is left to resize: 1024 pixels of deviation 20."""
    config = DegradationConfig(first=NEUTRAL, second=NOISE, final_sinc_probability=0)
    assert degrade(GREY, generator(seed), config).std().item() * 255 == pytest.approx(20, rel=0.1)


def test_noise_of_the_first_order_is_of_pixels_at_full_size() -> None:
    """Their deviation is 20, of which each interpolation to a quarter leaves its own share.

    Area takes the mean of 16 pixels, and so a quarter; bilinear takes two in each direction, so half; bicubic four,
    weighed by -3/32, 19/32, 19/32, -3/32: 0.7227 of it in two directions.
    """
    config = DegradationConfig(first=NOISE, second=NEUTRAL, final_sinc_probability=0)
    deviations = [degrade(GREY, generator(seed), config).std().item() * 255 for seed in range(16)]
    nearest = [min((5.0, 10.0, 14.45), key=lambda expected: abs(deviation - expected)) for deviation in deviations]
    assert deviations == pytest.approx(nearest, rel=0.1)
    assert set(nearest) == {5.0, 10.0, 14.45}


def test_sizes_of_the_three_resizes(photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 128 × 64 pixels to a quarter: by 0.15 to 1.5, to 0.3 to 1.2 of the final size, and to that."""
    sizes: list[tuple[int, int]] = []
    original = degradation.resize

    def record(image: torch.Tensor, size: tuple[int, int], source: torch.Generator) -> torch.Tensor:
        sizes.append(size)
        return original(image, size, source)

    monkeypatch.setattr(degradation, "resize", record)
    for seed in range(300):
        degrade(photo[:, :, :64], generator(seed))
    first, second, last = (torch.tensor(sizes[start::3]) for start in range(3))
    assert (last == torch.tensor([32, 16])).all()
    assert first.amin(0).tolist() == [19, 9] and first.amax(0).tolist() == [191, 95]
    assert second.amin(0).tolist() == [9, 4] and second.amax(0).tolist() == [38, 19]
    sizes.clear()
    for seed in range(50):  # one pixel, where a factor would leave none
        degrade(photo[:, :4, :4], generator(seed))
    assert set(sizes[1::3]) == set(sizes[2::3]) == {(1, 1)}


def test_the_result_is_enlarged_before_it_is_rounded(photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """All else is as without, so that it is the small image by one of three interpolations, clamped and rounded."""
    small = [degrade(photo, generator(seed)) for seed in range(12)]
    unrounded: list[torch.Tensor] = []
    original = degradation.resize

    def record(image: torch.Tensor, size: tuple[int, int], source: torch.Generator) -> torch.Tensor:
        if size == photo.shape[1:]:
            unrounded.append(image)
        return original(image, size, source)

    monkeypatch.setattr(degradation, "resize", record)
    kinds, fractions = set(), 0
    for seed, expected in enumerate(small):
        unrounded.clear()
        result = degrade(photo, generator(seed), replace(DegradationConfig(), enlarges=True))
        assert result.shape == photo.shape
        torch.testing.assert_close((result * 255).round() / 255, result)
        before = unrounded[-1]
        assert ((before * 255).round().clamp(0, 255) / 255).equal(expected)
        fractions += not before.equal(expected)  # otherwise JPEG came last, which rounds
        for mode in ("area", "bilinear", "bicubic"):
            enlarged = functional.interpolate(before[None], photo.shape[1:], mode=mode)[0]
            if ((enlarged * 255).round().clamp(0, 255) / 255).equal(result):
                kinds.add(mode)
    assert kinds == {"area", "bilinear", "bicubic"} and fractions > 0


def test_the_final_sinc_filter_moves_the_image(photo: torch.Tensor) -> None:
    neutral = DegradationConfig(first=NEUTRAL, second=NEUTRAL, final_sinc_probability=0)
    filtered = replace(neutral, final_sinc_probability=1)
    assert psnr(*(degrade(photo, generator(), config, scale=1) for config in (neutral, filtered))) < 40


def test_jpeg_comes_last_half_of_the_time(photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("jpeg", "resize", "blur"):
        original = getattr(degradation, name)

        def record(*arguments: object, name: str = name, original: Any = original) -> torch.Tensor:
            calls.append(name)
            return original(*arguments)

        monkeypatch.setattr(degradation, name, record)
    orders = []
    for seed in range(200):
        calls.clear()
        degrade(photo[:, :32, :32], generator(seed), DegradationConfig(final_sinc_probability=1))
        assert calls.count("jpeg") == 2 and calls.count("resize") == 3 and calls[:3] == ["blur", "resize", "jpeg"]
        orders.append(tuple(calls[-3:]))
    last, first = orders.count(("resize", "blur", "jpeg")), orders.count(("jpeg", "resize", "blur"))
    assert last + first == 200 and last / 200 == pytest.approx(0.5, abs=0.1)


def test_degradation_keeps_the_mean_colour(photo: torch.Tensor) -> None:
    shift = torch.stack([degrade(photo, generator(seed)).mean((1, 2)) - photo.mean((1, 2)) for seed in range(40)])
    assert shift.mean(0).abs().max() < 0.02


def test_images_that_cannot_be_degraded() -> None:
    with pytest.raises(ValueError, match="30x64 pixels: crop it to multiples of scale=4"):
        degrade(torch.rand(3, 64, 30), generator())
    with pytest.raises(ValueError, match="64x30 pixels: crop it to multiples of scale=4"):
        degrade(torch.rand(3, 30, 64), generator())
    with pytest.raises(ValueError, match=r"\[1, 3, 64, 64\]"):
        degrade(torch.rand(1, 3, 64, 64), generator())
    with pytest.raises(ValueError, match=r"\[4, 64, 64\]"):
        degrade(torch.rand(4, 64, 64), generator())
