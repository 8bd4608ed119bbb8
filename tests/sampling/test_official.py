"""What the official scripts do with images before and after the models; numbers were worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from diffusers_sr.coser.script import SCRIPT as COSER
from diffusers_sr.image.pixels import read_images
from diffusers_sr.sampling.official import PillowScript, rounded_down
from diffusers_sr.sampling.photo import Photo
from diffusers_sr.seesr.script import SCRIPT as SEESR
from diffusers_sr.xpsr.script import SCRIPT as XPSR
from tests.components import inputs, tiny_image
from tests.pipeline.tiny import PIPELINES, build, run

OFFICIAL = [method for method in PIPELINES if method != "cassr"]


def call(image: Any = None, upscale: float = 4, process_size: int = 512, **others: Any) -> Any:
    arguments = {"color_fix": None, "num_images_per_prompt": 1, **others}
    return SimpleNamespace(image=image, upscale=upscale, process_size=process_size, **arguments)


def read(script: Any, width: int, height: int, **options: Any) -> Photo:
    return script.read(call(tiny_image(width, height), **options), 8, torch.device("cpu"))


@pytest.mark.parametrize(
    ("script", "size", "options", "working", "final"),
    [
        (SEESR, (128, 128), {}, (512, 512), (512, 512)),
        # 128 / 75 * 101 = 172.4 -> 172, times 4.
        (SEESR, (101, 75), {}, (688, 512), (404, 300)),
        # 524 × 516, stretched.
        (SEESR, (131, 129), {}, (520, 512), (524, 516)),
        # 512 // 3 = 170, and 170 / 60 * 100 = 283.3 -> 283; 849 × 510 is stretched.
        (SEESR, (100, 60), {"upscale": 3}, (848, 504), (300, 180)),
        (SEESR, (50, 40), {"process_size": 0}, (200, 160), (200, 160)),
        (XPSR, (140, 128), {}, (560, 512), (560, 512)),
        # 404 × 300 -> 512 * 404 / 300 = 689.5 -> 689.
        (XPSR, (101, 75), {}, (688, 512), (404, 300)),
        (XPSR, (75, 101), {}, (512, 688), (300, 404)),
        (XPSR, (600, 520), {"upscale": 1}, (600, 520), (600, 520)),
        # 300 × 180 -> 512 * 300 / 180 = 853.3 -> 853.
        (XPSR, (100, 60), {"upscale": 3}, (848, 512), (300, 180)),
        (COSER, (96, 64), {"process_size": 0}, (384, 256), (384, 256)),
        # 400 × 300 are 12 and 9 times 32, and more.
        (COSER, (100, 75), {"process_size": 0}, (416, 320), (400, 300)),
        # 512 / 75 * 100 = 682.7 -> 682 -> 704; 512 is a multiple, and padded nevertheless. 704 * 4 * 75 / 512 = 412.5.
        (COSER, (100, 75), {}, (704, 544), (412, 318)),
        (COSER, (130, 129), {"upscale": 4.5, "process_size": 0}, (608, 608), (585, 580)),
    ],
)
def test_sizes(
    script: Any, size: tuple[int, int], options: dict[str, Any], working: tuple[int, int], final: tuple[int, int]
) -> None:
    photo = read(script, *size, **options)
    assert photo.padded.shape == (1, 3, working[1], working[0])
    assert photo.final_size == (final[1], final[0])
    assert photo.low_resolution.shape == (1, 3, size[1], size[0])


def test_seesr_resizes_three_times() -> None:
    image = tiny_image(101, 75)
    expected = image.resize((172, 128), Image.Resampling.BICUBIC).resize((688, 512), Image.Resampling.BICUBIC)
    assert torch.equal(read(SEESR, 101, 75).enlarged, read_images(expected))
    expected = (
        tiny_image(131, 129).resize((524, 516), Image.Resampling.BICUBIC).resize((520, 512), Image.Resampling.BICUBIC)
    )
    assert torch.equal(read(SEESR, 131, 129).padded, read_images(expected))


def test_xpsr_enlarges_a_second_time_bilinearly() -> None:
    expected = (
        tiny_image(101, 75)
        .resize((404, 300), Image.Resampling.BICUBIC)
        .resize((689, 512), Image.Resampling.BILINEAR)
        .resize((688, 512), Image.Resampling.BICUBIC)
    )
    assert torch.equal(read(XPSR, 101, 75).padded, read_images(expected))


def test_coser_enlarges_as_torch_and_reflects_the_border() -> None:
    photo = read(COSER, 100, 75, process_size=0)
    x = 2 * photo.low_resolution - 1
    expected = F.interpolate(x, (300, 400), mode="bicubic").clamp(-1, 1) / 2 + 0.5
    torch.testing.assert_close(photo.enlarged, expected, atol=1e-6, rtol=0)
    assert torch.equal(photo.padded[..., :300, :400], photo.enlarged)
    assert torch.equal(photo.padded[..., :300, 400:], photo.enlarged[..., :, 383:399].flip(-1))
    assert torch.equal(photo.padded[..., 300:, :400], photo.enlarged[..., 279:299, :].flip(-2))


def test_values_are_rounded_down() -> None:
    levels = rounded_down(torch.tensor([0.0, 0.5, 0.999, 1.0])) * 255
    assert levels.tolist() == pytest.approx([0, 127, 254, 255], abs=1e-4)


def finished(script: Any, decoded: torch.Tensor, enlarged: torch.Tensor, **options: Any) -> list[float]:
    photo = Photo(enlarged, enlarged, enlarged, options.pop("final_size", (enlarged.shape[-2], enlarged.shape[-1])))
    result = script.finish(call(**options), photo, decoded)
    assert torch.equal((result * 255).round() / 255, result)
    return sorted(set((result * 255).round().flatten().tolist()))


def constant(level: float) -> torch.Tensor:
    return torch.full((1, 3, 8, 8), level / 255)


def columns(*levels: float) -> torch.Tensor:
    """An image whose columns have these levels in turn."""
    return torch.tensor(levels).repeat(1, 3, 8, 8 // len(levels)) / 255


def three_quarters(low: float, high: float) -> torch.Tensor:
    return columns(low, high, high, high)


@pytest.mark.parametrize("script", [SEESR, XPSR])
def test_pillow_rounds_what_is_decoded_and_cuts_what_is_fixed(script: PillowScript) -> None:
    assert finished(script, constant(152.6), constant(0)) == [153]
    assert finished(script, constant(300), constant(0)) == [255]
    # The mean of the enlarged image is 100.75.
    assert finished(script, constant(152.6), three_quarters(100, 101), color_fix="adain") == [100]
    # 153 of the decoded image is on 100 of the enlarged one.
    assert finished(script, constant(152.6), constant(100), color_fix="wavelet") in ([99], [100])


def test_pillow_resizes_after_the_colours() -> None:
    decoded, enlarged = constant(152.6), three_quarters(100, 101)
    assert finished(SEESR, decoded, enlarged, color_fix="adain", final_size=(5, 6)) == [100]
    decoded = three_quarters(0, 200)
    expected = Image.fromarray((decoded[0] * 255).round().to(torch.uint8).movedim(0, -1).numpy())
    expected = expected.resize((6, 5), Image.Resampling.BICUBIC)
    photo = Photo(decoded, decoded, decoded, (5, 6))
    assert torch.equal(SEESR.finish(call(), photo, decoded), read_images(expected))


def test_coser_cuts_when_it_saves() -> None:
    assert finished(COSER, constant(152.9), constant(0)) == [152]
    assert finished(COSER, constant(300), constant(0)) == [255]
    assert finished(COSER, constant(-30), constant(0)) == [0]
    assert finished(COSER, constant(152.9), three_quarters(100, 101), color_fix="adain") == [100]


def test_coser_matches_colours_before_it_limits_them() -> None:
    # Means are 150 and 115, and deviations 10 to 1. What is added to the variances puts 100 and 110 just below.
    decoded, enlarged = columns(0, 100, 200, 300), columns(100, 110, 120, 130)
    assert finished(COSER, decoded, enlarged, color_fix="adain") == [99, 109, 120, 130]


def test_coser_reduces_what_it_enlarged_to_the_process_size() -> None:
    photo = read(COSER, 100, 75)
    decoded = photo.padded.clone()
    result = COSER.finish(call(), photo, decoded)
    expected = F.interpolate(photo.enlarged, (318, 412), mode="bicubic").clamp(0, 1)
    assert torch.equal((result * 255).round(), (expected * 255).floor())


@pytest.mark.parametrize("method", OFFICIAL)
def test_a_call(method: str) -> None:
    pipeline = build(method)
    arguments: dict[str, Any] = {"image": tiny_image(19, 17), "upscale": 2.0, "process_size": 0, "color_fix": "adain"}
    official = run(pipeline, method, official_preprocessing=True, **arguments)
    plain = run(pipeline, method, **arguments)
    assert official.shape == plain.shape == (1, 34, 38, 3)
    assert torch.equal((official * 255).round() / 255, official)
    assert not torch.equal((plain * 255).round() / 255, plain)
    given = {**inputs(method), **arguments, "generator": torch.Generator().manual_seed(0), "output_type": "pil"}
    image = pipeline(**given, official_preprocessing=True).images[0]
    assert np.array_equal(np.asarray(image), (official[0] * 255).round().to(torch.uint8).numpy())
    two = run(pipeline, method, official_preprocessing=True, num_images_per_prompt=2, **arguments)
    assert two.shape == (2, 34, 38, 3)


@pytest.mark.parametrize("method", ["seesr", "xpsr", "pasd"])
def test_pillow_takes_whole_factors(method: str) -> None:
    with pytest.raises(ValueError, match=r"upscale=2.5, but the official script takes whole factors only"):
        build(method).check_inputs(upscale=2.5, official_preprocessing=True)
    build(method).check_inputs(upscale=np.float32(2), official_preprocessing=True)


def test_there_is_no_official_code_of_cassr() -> None:
    with pytest.raises(ValueError, match="There is no official code of CasSR"):
        build("cassr").check_inputs(official_preprocessing=True)


def test_images_that_are_too_small() -> None:
    with pytest.raises(ValueError, match="An image of 40×3 pixels is too small"):
        read(SEESR, 40, 3, upscale=2, process_size=0)
    with pytest.raises(ValueError, match="An image of 20×7 pixels is too small: the official script cannot pad it"):
        read(COSER, 20, 7, upscale=2, process_size=0)


def test_arguments_are_the_official_ones_unless_they_are_given() -> None:
    for method in ("xpsr", "pasd"):
        pipeline = build(method)
        assert pipeline.check_inputs().caption_overflow == "shorten"
        assert pipeline.check_inputs(official_preprocessing=True).caption_overflow == "cut"
        assert (
            pipeline.check_inputs(official_preprocessing=True, caption_overflow="shorten").caption_overflow
            == "shorten"
        )
    pipeline = build("coser")
    assert pipeline.check_inputs().process_size == 512
    official = pipeline.check_inputs(official_preprocessing=True)
    assert (official.process_size, official.tile_size, official.tile_overlap) == (0, 8192, 256)
    assert pipeline.check_inputs(official_preprocessing=True, process_size=64).process_size == 64
    # The script without a generated reference has the process size.
    official = pipeline.check_inputs(official_preprocessing=True, reference_images=tiny_image())
    assert (official.process_size, official.tile_size, official.tile_overlap) == (512, 512, 256)
    assert build("seesr").check_inputs(official_preprocessing=True).process_size == 512
    with pytest.raises(ValueError, match="official_preprocessing='yes', expected True or False"):
        pipeline.check_inputs(official_preprocessing="yes")


def test_the_same_by_hand() -> None:
    """As a caller would do it with Pillow and numpy, around a call that neither resizes nor matches colours."""
    pipeline, image = build("xpsr"), tiny_image(19, 17)
    stretched = image.resize((38, 34), Image.Resampling.BICUBIC).resize((32, 32), Image.Resampling.BICUBIC)
    options: dict[str, Any] = {"process_size": 0, "color_fix": None}
    decoded = run(pipeline, "xpsr", image=stretched, upscale=1, **options)[0].numpy()
    pixels, colours = np.round(255 * decoded) / 255, np.asarray(stretched) / 255
    spread = [np.sqrt(x.reshape(-1, 3).var(0, ddof=1) + 1e-5) for x in (pixels, colours)]
    fixed = (pixels - pixels.mean((0, 1))) / spread[0] * spread[1] + colours.mean((0, 1))
    expected = Image.fromarray((255 * fixed.clip(0, 1)).astype(np.uint8)).resize((38, 34), Image.Resampling.BICUBIC)
    official = run(
        pipeline, "xpsr", image=image, **{**options, "upscale": 2, "color_fix": "adain"}, official_preprocessing=True
    )
    difference = 255 * official[0].numpy() - np.asarray(expected)
    assert np.abs(difference).max() < 1.5  # a sum in another order may fall on the other side of a whole number
    assert np.abs(difference).mean() < 0.01
