from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from torch.utils.data import DataLoader, Dataset

from benchmarks import degradation as published
from diffusers_sr.data import degradation
from diffusers_sr.data.degradation import (
    DegradationConfig,
    DegradationOrder,
    add_noise,
    degrade,
    degrade_batch,
    draw_kernel,
    draw_resize_factor,
    poisson_noise,
    resize,
    usm_sharpen,
)
from diffusers_sr.data.jpeg import jpeg
from diffusers_sr.data.kernels import blur, gaussian_kernel, plateau_kernel, reflect_pad, sinc_kernel


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """[3, 128, 144] in [0, 1]."""
    return torch.from_numpy(data.astronaut()[60:188, 150:294].copy()).permute(2, 0, 1).float() / 255


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    return -10 * (first - second).square().mean().log10().item()


# Kernels


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
def test_kernels_sum_to_one_and_are_point_symmetric(kernel: object, size: int) -> None:
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


# JPEG


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("height, width", [(128, 144), (101, 77)])
def test_jpeg_is_the_library_s(photo: torch.Tensor, quality: int, height: int, width: int) -> None:
    image = photo[:, :height, :width]
    pixels = (image * 255).byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    library = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255

    ours = jpeg(image, quality)
    assert ours.shape == image.shape
    assert psnr(ours, image) == pytest.approx(psnr(library, image), abs=0.25), "artefacts of equal strength"
    # Two decodings differ by rounding alone: by far less than either does from the photo.
    assert psnr(ours, library) > max(42, psnr(library, image) + 6)


def test_jpeg_gives_8_bit_values_and_gets_worse_with_quality(photo: torch.Tensor) -> None:
    results = [jpeg(photo * 1.2 - 0.1, quality) for quality in (95, 60.5, 30, 5)]
    for result in results:
        assert result.min() >= 0 and result.max() <= 1
        torch.testing.assert_close((result * 255).round() / 255, result)
    levels = [psnr(result, photo) for result in (jpeg(photo, quality) for quality in (95, 60.5, 30, 5))]
    assert levels == sorted(levels, reverse=True)


def test_jpeg_refuses_an_impossible_quality(photo: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"quality=0\.5"):
        jpeg(photo, 0.5)


# Draws


def test_kernels_are_drawn_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, tuple[object, ...]]] = []
    for name in ("gaussian_kernel", "plateau_kernel", "sinc_kernel"):
        original = getattr(degradation, name)

        def record(*arguments: object, name: str = name, original: object = original) -> torch.Tensor:
            drawn.append((name, arguments))
            return original(*arguments)

        monkeypatch.setattr(degradation, name, record)

    order, source, count = DegradationOrder(), generator(), 4000
    for _ in range(count):
        draw_kernel(order, source)

    def share(of: list[object]) -> float:
        return len(of) / count

    sizes = np.array([arguments[0] for _, arguments in drawn])
    assert sorted(set(sizes.tolist())) == list(order.kernel_sizes)
    assert sizes.mean() == pytest.approx(14, abs=0.3)

    sincs = [arguments for name, arguments in drawn if name == "sinc_kernel"]
    assert share(sincs) == pytest.approx(0.1, abs=0.02)
    for small, lowest in ((True, math.pi / 3), (False, math.pi / 5)):
        cutoffs = np.array([cutoff for size, cutoff in sincs if (size < 13) == small])
        assert lowest <= cutoffs.min() and cutoffs.max() <= math.pi
        assert cutoffs.mean() == pytest.approx((lowest + math.pi) / 2, abs=0.15)

    others = [(name, arguments) for name, arguments in drawn if name != "sinc_kernel"]
    sigma = np.array([arguments[1][0] for _, arguments in others])
    assert sigma.min() >= 0.2 and sigma.max() <= 3 and sigma.mean() == pytest.approx(1.6, abs=0.06)
    turned = [arguments for _, arguments in others if arguments[1][0] != arguments[1][1]]
    assert share(turned) == pytest.approx(0.9 * (0.25 + 0.03 + 0.03), abs=0.03)
    angles = np.array([arguments[2] for arguments in turned])
    assert np.abs(angles).max() <= math.pi and angles.mean() == pytest.approx(0, abs=0.2)

    plateaus = np.array([arguments[3] for name, arguments in others if name == "plateau_kernel"])
    assert len(plateaus) / count == pytest.approx(0.9 * 0.15, abs=0.02)
    assert (plateaus == 1).mean() == pytest.approx(0.5, abs=0.06) and plateaus.max() <= 2
    shapes = np.array(
        [arguments[3] for name, arguments in others if name == "gaussian_kernel" and len(arguments) == 4]
    )
    assert len(shapes) / count == pytest.approx(0.9 * 0.15, abs=0.02)
    assert shapes.min() >= 0.5 and shapes.max() <= 4
    assert (shapes < 1).mean() == pytest.approx(0.5, abs=0.07)


def test_a_sample_draws_what_is_published() -> None:
    """All that `degrade` draws, against the ranges and chances of SeeSR's training pairs."""
    draws = published.record_draws(1000)
    statistics = list(published.statistics(draws))
    assert len(statistics) == 47
    for each in statistics:
        assert each.count > 30 and abs(each.z) < 4, each
    # Beside them only the plateau's half of a range that has nothing below 1, and a first blur that is always there.
    assert draws["_uniform"].keys() - set(published.RANGES.values()) == {(1.0, 1.0)}
    assert draws["_chance"].keys() - {(chance,) for chance in published.CHANCES.values()} == {(1.0,)}
    for (low, high), values in draws["_uniform"].items():
        # Of n draws, one in a thousand leaves 7 / n of the range empty at an end.
        reach = 7 / len(values) * (high - low)
        assert low <= min(values) <= low + reach and high - reach <= max(values) <= high


def test_resize_factors_are_drawn_as_configured() -> None:
    source = generator()
    factors = np.array([draw_resize_factor(DegradationOrder(), source) for _ in range(4000)])
    down, up = factors[factors < 1], factors[factors > 1]
    assert len(down) / 4000 == pytest.approx(0.7, abs=0.03) and len(up) / 4000 == pytest.approx(0.2, abs=0.03)
    assert down.min() >= 0.15 and down.mean() == pytest.approx(0.575, abs=0.02)
    assert up.max() <= 1.5 and up.mean() == pytest.approx(1.25, abs=0.02)


def test_resize_draws_all_three_interpolations(photo: torch.Tensor) -> None:
    size = (40, 50)
    expected = [F.interpolate(photo[None], size=size, mode=mode)[0] for mode in ("area", "bilinear", "bicubic")]
    seen = set()
    for seed in range(20):
        result = resize(photo, size, generator(seed))
        seen |= {index for index, image in enumerate(expected) if torch.equal(image, result)}
    assert seen == {0, 1, 2}


def test_resizing_to_the_same_size_is_what_each_interpolation_does(photo: torch.Tensor) -> None:
    for mode in degradation.INTERPOLATIONS:
        assert torch.equal(F.interpolate(photo[None], size=photo.shape[1:], mode=mode)[0], photo)
    source, drawn = generator(), generator()
    assert torch.equal(resize(photo, (128, 144), source), photo)
    degradation._choice(drawn, degradation.INTERPOLATIONS)
    assert torch.equal(source.get_state(), drawn.get_state()), "one is drawn all the same"


@pytest.mark.parametrize("gray", [False, True])
def test_gaussian_noise_has_its_deviation(gray: bool) -> None:
    image = torch.full((3, 64, 64), 0.5)
    order = DegradationOrder(
        gaussian_noise_probability=1, gray_noise_probability=float(gray), gaussian_noise_sigma=(10, 10)
    )
    noise = add_noise(image, order, generator()) - image
    assert noise.std().item() * 255 == pytest.approx(10, rel=0.05)
    assert noise.mean().item() * 255 == pytest.approx(0, abs=0.5)
    assert torch.allclose(noise[0], noise[1]) == gray


def test_poisson_noise_grows_with_brightness() -> None:
    # 256 distinct values: 256 photons for white, so that the variance is value / 256.
    image = (torch.arange(256.0) / 255).repeat(3, 64, 1)
    noise = poisson_noise(image, False, generator())
    assert noise.shape == image.shape
    variance = noise.var(dim=(0, 1))
    assert variance[0] == 0
    for low, high in ((32, 96), (160, 224)):
        assert variance[low:high].mean().item() == pytest.approx(image[0, 0, low:high].mean().item() / 256, rel=0.1)
    assert noise.mean().abs() < 1e-3

    # Few distinct values: 4 photons, stronger noise.
    flat = torch.tensor([0.0, 0.5, 0.75])[:, None, None].expand(3, 64, 64)
    assert poisson_noise(flat, False, generator())[1].var().item() == pytest.approx(0.5 / 4, rel=0.1)
    gray = poisson_noise(image, True, generator())
    assert torch.equal(gray[0], gray[1])


def test_poisson_noise_is_scaled(photo: torch.Tensor) -> None:
    order = DegradationOrder(gaussian_noise_probability=0, gray_noise_probability=0)
    weak, strong = (
        add_noise(photo, replace(order, poisson_noise_scale=(scale, scale)), generator()) - photo
        for scale in (0.1, 0.2)
    )
    inside = (photo > 0.1) & (photo < 0.9)  # not clamped
    torch.testing.assert_close(2 * weak[inside], strong[inside], atol=1e-6, rtol=0)


# Sharpening


def test_sharpening_steepens_edges_and_leaves_weak_detail() -> None:
    edge = torch.full((3, 96, 96), 0.3)
    edge[:, :, 48:] = 0.7
    sharp = usm_sharpen(edge)
    assert sharp[0, 48, 48] > 0.75 and sharp[0, 48, 47] < 0.25
    weak = 0.5 + 0.02 * (edge - 0.5)
    torch.testing.assert_close(usm_sharpen(weak), weak, atol=1e-5, rtol=0)


def test_sharpening_of_a_batch_is_that_of_its_images(photo: torch.Tensor) -> None:
    batch = torch.stack([photo, photo.flip(-1)])
    sharp = usm_sharpen(batch)
    assert sharp.shape == batch.shape and sharp.min() >= 0 and sharp.max() <= 1
    torch.testing.assert_close(sharp[0], usm_sharpen(photo), atol=1e-5, rtol=0)
    torch.testing.assert_close(sharp[1], usm_sharpen(photo).flip(-1), atol=1e-5, rtol=0)
    assert psnr(sharp[0], photo) < 35


# The whole


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


# A batch


def statistics(images: torch.Tensor) -> torch.Tensor:
    """Of each of [batch, 3, height, width]: mean, deviation, energies of the gradients, and steps at JPEG's blocks."""
    along, across = images.diff(dim=-1).square(), images.diff(dim=-2).square()
    border = along[..., 7::8].mean((1, 2, 3)) - along[..., 3::8].mean((1, 2, 3))
    moments = (images.mean((1, 2, 3)), images.std((1, 2, 3)), along.mean((1, 2, 3)), across.mean((1, 2, 3)), border)
    return torch.stack(moments, dim=1)


def distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """How far apart two sets of samples are, in standard errors, by mean and by mean square of each statistic."""
    moments = [torch.cat([values, values.square()], dim=1) for values in (statistics(first), statistics(second))]
    error = sum(values.var(0) / len(values) for values in moments).sqrt()
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


NEUTRAL = DegradationOrder(
    blur_probability=0,
    resize_probabilities=(0, 0, 1),
    gaussian_noise_probability=1,
    gaussian_noise_sigma=(0, 0),
    jpeg_quality=(100, 100),
)


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
def test_each_stage_moves_the_image(photo: torch.Tensor, stage: str, change: dict[str, object]) -> None:
    neutral = DegradationConfig(first=NEUTRAL, second=NEUTRAL, final_sinc_probability=0)
    changed = replace(neutral, **{stage: replace(NEUTRAL, **change)})
    # Interpolations are drawn as well: over some seeds the stage has to matter for each.
    for seed in range(4):
        reference, result = (degrade(photo, generator(seed), config, scale=1) for config in (neutral, changed))
        assert psnr(reference, photo) > 38, "neutral settings leave the photo as it is, but for JPEG's halved chroma"
        assert psnr(result, reference) < 40


def test_the_final_sinc_filter_moves_the_image(photo: torch.Tensor) -> None:
    neutral = DegradationConfig(first=NEUTRAL, second=NEUTRAL, final_sinc_probability=0)
    filtered = replace(neutral, final_sinc_probability=1)
    assert psnr(*(degrade(photo, generator(), config, scale=1) for config in (neutral, filtered))) < 40


def test_jpeg_comes_last_half_of_the_time(photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("jpeg", "resize", "blur"):
        original = getattr(degradation, name)

        def record(*arguments: object, name: str = name, original: object = original) -> torch.Tensor:
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
    with pytest.raises(ValueError, match=r"\[1, 3, 64, 64\]"):
        degrade(torch.rand(1, 3, 64, 64), generator())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kernel_sizes": (7, 8)}, r"kernel_sizes=\(7, 8\)"),
        ({"kernel_sizes": ()}, r"kernel_sizes=\(\)"),
        ({"kernel_probabilities": (0.5, 0.5)}, "6 probabilities that sum to 1"),
        ({"resize_probabilities": (0.5, 0.5, 0.5)}, r"resize_probabilities=\(0.5, 0.5, 0.5\).*up, down, keep"),
        ({"sigma": (3.0, 0.2)}, r"sigma=\(3.0, 0.2\)"),
        ({"sigma": 2.0}, r"sigma=2\.0: it has to be \(lowest, highest\)"),
        ({"sigma": (0.0, 0.2)}, r"sigma=\(0.0, 0.2\)"),
        ({"sinc_probability": 1.5}, "sinc_probability=1.5"),
        ({"jpeg_quality": (0, 95)}, r"jpeg_quality=\(0, 95\)"),
        ({"resize_factor": (0.2, 0.9)}, "has to include 1"),
        ({"gaussian_noise_sigma": (-1, 2)}, r"gaussian_noise_sigma=\(-1, 2\)"),
    ],
)
def test_impossible_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DegradationOrder(**change)


def test_impossible_final_settings_are_named() -> None:
    with pytest.raises(ValueError, match="final_sinc_probability=-1"):
        DegradationConfig(final_sinc_probability=-1)
    with pytest.raises(ValueError, match="final_kernel_sizes"):
        DegradationConfig(final_kernel_sizes=(4,))
