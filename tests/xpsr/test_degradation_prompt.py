"""The measured low-level prompt: each phrase tracks its own degradation, and says nothing of the others."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from skimage import data
from torch import Tensor

from diffusers_sr.data.degradation import degrade
from diffusers_sr.data.degradation_settings import DegradationConfig
from diffusers_sr.data.jpeg import jpeg
from diffusers_sr.data.kernels import blur, gaussian_kernel
from diffusers_sr.image.pixels import resize
from diffusers_sr.xpsr.degradation_prompt import (
    BLUR,
    COMPRESSION,
    NOISE,
    RESOLUTION,
    VOCABULARY,
    blockiness,
    describe_degradation,
    noise_level,
    sharpness,
)

SIGMAS = (0.0, 0.5, 0.8, 1.2, 2.0, 3.0)
LEVELS = (0, 2, 5, 10, 20, 30)
QUALITIES = (100, 95, 75, 45, 20, 10)


def as_8_bits(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255) / 255


@pytest.fixture(scope="module", params=["astronaut", "chelsea", "coffee"])
def photo(request: pytest.FixtureRequest) -> Tensor:
    """A photograph reduced four times, of at least 75 pixels a side, without degradation: [3, H, W]."""
    pixels = torch.from_numpy(getattr(data, request.param)()).permute(2, 0, 1)[None].float() / 255
    return as_8_bits(resize(pixels, (pixels.shape[2] // 4, pixels.shape[3] // 4)))[0]


def blurred(image: Tensor, sigma: float) -> Tensor:
    return as_8_bits(blur(image, gaussian_kernel(21, (sigma, sigma)))) if sigma else image


def noisy(image: Tensor, level: float) -> Tensor:
    return as_8_bits(image + level / 255 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0)))


def levels(image: Tensor) -> list[int]:
    """The strengths, from 0 to 3, that the four phrases stand for."""
    phrases = describe_degradation(image).split(", ")
    return [names.index(phrase) for names, phrase in zip(VOCABULARY, phrases, strict=True)]


def test_clean(photo: Tensor) -> None:
    blur_level, noise, compression, _ = levels(photo)
    assert (blur_level, compression) == (0, 0)
    assert noise <= 1  # fine texture is taken for slight noise


def test_blur(photo: Tensor) -> None:
    images = [blurred(photo, sigma) for sigma in SIGMAS]
    measured = [sharpness(image * 255, noise_level(image * 255)) for image in images]
    assert measured == sorted(measured, reverse=True)
    found = [levels(image) for image in images]
    assert [each[0] for each in found] == sorted(each[0] for each in found)
    assert found[0][0] == 0
    assert found[-1][0] == 3
    assert all(each[1:3] == [0, 0] for each in found[2:])  # nothing else is seen in it


def test_noise(photo: Tensor) -> None:
    images = [noisy(photo, level) for level in LEVELS]
    measured = [noise_level(image * 255) for image in images]
    assert measured == sorted(measured)
    assert measured[-2:] == pytest.approx(LEVELS[-2:], rel=0.2)
    found = [levels(image) for image in images]
    assert [each[1] for each in found[2:]] == [1, 2, 3, 3]
    assert all(each[2] == 0 for each in found)
    assert [each[0] for each in found[:-1]] == [0] * 5  # what is as weak as the strongest noise is not seen
    assert found[-1][0] <= 1


def test_compression(photo: Tensor) -> None:
    images = [jpeg(photo, quality) for quality in QUALITIES]
    measured = [blockiness(image * 255) for image in images]
    assert measured == sorted(measured)
    found = [levels(image) for image in images]
    strengths = [each[2] for each in found]
    assert strengths == sorted(strengths)
    # Smooth photographs show it sooner than those that the thresholds are of.
    assert strengths[0] == 0
    assert strengths[2] in (1, 2)
    assert strengths[3] in (2, 3)
    assert strengths[4] == 3
    assert all(each[0] == 0 for each in found[:4])  # what is stronger takes fine detail away


def test_size() -> None:
    image = torch.rand(3, 256, 300)
    assert describe_degradation(image).endswith(", medium resolution")
    assert describe_degradation(image[:, :255]).endswith(", low resolution")
    assert describe_degradation(image[:, :, :95]).endswith(", very low resolution")
    assert describe_degradation(image[:, :96]).endswith(", low resolution")
    assert describe_degradation(image, shorter_side=720).endswith(", high resolution")
    assert describe_degradation(image, shorter_side=95).endswith(", very low resolution")


@pytest.mark.parametrize("sigma", [1.2, 2.0])
def test_noise_does_not_hide_blur(photo: Tensor, sigma: float) -> None:
    found = levels(noisy(blurred(photo, sigma), 10))
    assert found[0] >= 2
    assert found[1:3] == [2, 0]


def test_several_at_once(photo: Tensor) -> None:
    found = levels(jpeg(blurred(photo, 1.6), 30))
    assert found[0] >= 2
    assert found[1] == 0
    assert found[2] == 3


def test_crops_of_training(photo: Tensor) -> None:
    """On 24×24 pixels what is added is seen in most crops, though not in all."""
    tops = [(top, left) for top in range(0, 48, 24) for left in range(0, 48, 24)]
    crops = [photo[:, top : top + 24, left : left + 24] for top, left in tops]

    def mean(axis: int, degraded: list[Tensor]) -> float:
        return sum(levels(each)[axis] for each in degraded) / len(degraded)

    assert mean(0, [blurred(crop, 0) for crop in crops]) + 1 < mean(0, [blurred(crop, 1.6) for crop in crops])
    assert mean(1, crops) + 0.5 < mean(1, [noisy(crop, 10) for crop in crops]) < mean(1, [noisy(c, 25) for c in crops])
    assert mean(2, crops) + 1 < mean(2, [jpeg(crop, 30) for crop in crops])


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 2), (3, 3), (4, 9), (9, 9), (10, 4), (40, 1), (2, 1100)])
@pytest.mark.parametrize("value", [None, 0.0, 1.0])
def test_any_size(size: tuple[int, int], value: float | None) -> None:
    image = torch.rand(3, *size) if value is None else torch.full((3, *size), value)
    found = levels(image)
    assert found[3] == 3
    if value is not None:  # nothing is claimed of an even surface
        assert found[:3] == [0, 0, 0]


def test_of_a_large_image_the_middle_is_measured(photo: Tensor) -> None:
    """And its blocks are found, though the middle does not begin with one."""
    tile = jpeg(photo[:, :72, :72], 20)
    large = tile.repeat(1, 16, 16)  # 1152 pixels, a multiple of 8
    assert levels(large)[2] == 3
    edge = torch.rand(3, 1152, 1152, generator=torch.Generator().manual_seed(0))
    edge[:, 64:1088, 64:1088] = large[:, 64:1088, 64:1088]
    assert describe_degradation(edge) == describe_degradation(large)
    odd = torch.nn.functional.pad(large, (0, 13, 0, 7))  # begins with a block, but is no multiple of 8
    assert levels(odd)[2] == 3


def test_dtypes_and_layouts(photo: Tensor) -> None:
    plain = describe_degradation(photo)
    assert describe_degradation(photo.double()) == plain
    assert describe_degradation(photo.permute(1, 2, 0).contiguous().permute(2, 0, 1)) == plain
    before = photo.clone()
    describe_degradation(photo)
    assert torch.equal(photo, before)


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8), (1, 3, 8, 8), (3, 0, 8), (8, 8, 3)])
def test_what_is_no_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"has to be \[3, H, W\]"):
        describe_degradation(torch.zeros(shape))


def test_the_vocabulary_is_what_is_said(photo: Tensor) -> None:
    phrases = list(itertools.chain(*VOCABULARY))
    assert len(set(phrases)) == 16
    assert (BLUR, NOISE, COMPRESSION, RESOLUTION) == VOCABULARY
    generator = torch.Generator().manual_seed(0)
    image = photo[:, :72, :72]
    for _ in range(20):
        said = describe_degradation(degrade(image, generator, DegradationConfig(), scale=3)).split(", ")
        assert [phrase in names for phrase, names in zip(said, VOCABULARY, strict=True)] == [True] * 4


def test_it_is_fast_enough_for_training() -> None:
    """Far below what degrading the crop costs; some 0.3 ms on one core, the bound leaves room for a busy machine."""
    crop = torch.rand(3, 24, 24)
    describe_degradation(crop)
    start = time.process_time()
    for _ in range(50):
        describe_degradation(crop)
    assert (time.process_time() - start) / 50 < 5e-3
