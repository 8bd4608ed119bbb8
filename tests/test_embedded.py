"""The models the package ships: they load, give the sizes asked for, and restore photographs they have never seen."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusers_sr import load_pipeline
from diffusers_sr.data.degradation import degrade
from diffusers_sr.data.degradation_settings import DegradationConfig
from diffusers_sr.data.seeds import sample_generator
from diffusers_sr.evaluation.measures import evaluate
from diffusers_sr.hub import BASE, DEFAULT_MODEL, MODELS, embedded_models
from diffusers_sr.image.pixels import resize
from diffusers_sr.image.tiling import tile_starts

TILE_SIZE, TILE_OVERLAP = 192, 64
WIDTH = 384
MEGABYTES = {BASE: 20, "seesr-small": 15, "one-step-small": 40}


@pytest.fixture(scope="module", params=embedded_models())
def pipeline(request):
    pipeline = load_pipeline(request.param)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", params=[DEFAULT_MODEL, "seesr-small"])
def one_of_each_kind(request):
    """One step without noise, and a method on the small base; the other methods' tiles and types are tested tiny."""
    pipeline = load_pipeline(request.param)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def photo(name: str) -> torch.Tensor:
    pixels = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1).float() / 255
    return pixels[:, 20:276, 100:356]


@pytest.mark.parametrize("folder", [BASE, *embedded_models()])
def test_it_is_small_and_in_half_precision(folder):
    files = [path for path in (MODELS / folder).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MEGABYTES.get(folder, 12) * 1e6
    weights = [load_file(path) for path in files if path.suffix == ".safetensors"]
    tensors = [tensor for state in weights for tensor in state.values()]
    assert tensors
    assert all(tensor.dtype == torch.float16 for tensor in tensors if tensor.is_floating_point())


def test_names_that_are_no_pipeline_of_ours(tmp_path):
    with pytest.raises(ValueError, match="holds a StableDiffusionPipeline; this package loads SeeSRPipeline"):
        load_pipeline(str(MODELS / BASE))
    with pytest.raises(OSError, match="nowhere"):
        load_pipeline(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("size", "upscale", "expected"),
    [((33, 57), None, (132, 228)), ((33, 57), 2.5, (82, 142)), ((96, 64), 2.5, (240, 160))],
)
def test_any_size(pipeline, size, upscale, expected):
    image = Image.fromarray(skimage.data.coffee()).resize(size, Image.Resampling.LANCZOS)
    arguments = {} if upscale is None else {"upscale": upscale}
    assert pipeline(image, **arguments).images[0].size == expected


def test_it_is_better_than_bicubic(pipeline):
    """Means over three photos it has not seen, against the limits the model was accepted with."""
    results, bicubics = [], []
    is_default = pipeline.name_or_path.endswith(DEFAULT_MODEL)
    for index, name in enumerate(("astronaut", "coffee", "chelsea")):
        original = photo(name)
        degraded = degrade(original, sample_generator(0, index), DegradationConfig())[None]
        result = pipeline(degraded, generator=torch.Generator().manual_seed(0), output_type="pt").images
        results.append(evaluate(original[None], result))
        height, width = original.shape[-2:]
        bicubics.append(evaluate(original[None], resize(degraded, (height, width))))
    ours, bicubic = ({name: np.mean([row[name] for row in rows]) for name in rows[0]} for rows in (results, bicubics))
    # The default model invents less than the others, and is closer to the photo than bicubic enlargement.
    most = 0.75 if is_default else 0.7
    assert ours["log_power_spectrum_distance"] <= most * bicubic["log_power_spectrum_distance"]
    assert ours["gmsd"] <= 1.2 * bicubic["gmsd"]
    assert ours["psnr_y"] >= bicubic["psnr_y"] - (0 if is_default else 3)
    assert ours["mean_color_difference"] <= bicubic["mean_color_difference"] + 2


def seams(difference: torch.Tensor) -> float:
    """How much more a difference of two images, [H, W], changes where tiles begin, end and hand over."""
    near, elsewhere = [], []
    for plane in (difference, difference.T):
        change = (plane[:, 1:] - plane[:, :-1]).abs().mean(0)
        is_near = torch.zeros_like(change, dtype=torch.bool)
        for border in borders(plane.shape[1]):
            is_near[border - 2 : border + 2] = True
        near.append(change[is_near])
        elsewhere.append(change[~is_near])
    return float(torch.cat(near).mean() / torch.cat(elsewhere).mean())


def borders(length: int) -> list[int]:
    starts = tile_starts(length, TILE_SIZE, TILE_OVERLAP)
    ends = [start + TILE_SIZE for start in starts]
    middles = [(end + start) // 2 for end, start in zip(ends, starts[1:], strict=False)]
    return sorted({*starts[1:], *ends[:-1], *middles})


def test_borders_of_tiles_cannot_be_seen(one_of_each_kind):
    pipeline = one_of_each_kind
    pixels = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1).float() / 255
    degraded = degrade(pixels[:, :256, :WIDTH], sample_generator(0, 0), DegradationConfig())[None]
    whole, tiled = (
        pipeline(
            degraded,
            tile_size=tile_size,
            tile_overlap=TILE_OVERLAP,
            generator=torch.Generator().manual_seed(0),
            color_fix=None,
            output_type="pt",
        ).images[0]
        for tile_size in (512, TILE_SIZE)
    )
    difference = (whole - tiled).mean(0)
    assert difference.abs().max() > 1e-3, "the tiled result is another computation"
    steps = sum((-1) ** number * (torch.arange(WIDTH) >= border) for number, border in enumerate(borders(WIDTH)))
    assert seams(difference + 0.01 * steps) > 1.15, "steps of 2.5/255 would be found"
    assert seams(difference) <= 1.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close_to_float32(one_of_each_kind, dtype, caplog):
    pipeline = one_of_each_kind
    image = Image.fromarray(skimage.data.astronaut()[100:116, 200:220])
    arguments = {"output_type": "pt", "process_size": 16}
    if "num_inference_steps" in pipeline.config.call_defaults:
        arguments["num_inference_steps"] = 1 if dtype == torch.float16 else 4
    half = load_pipeline(pipeline.name_or_path.rpartition("/")[2], dtype=dtype)
    half.set_progress_bar_config(disable=True)
    result, expected = (
        each(image, generator=torch.Generator().manual_seed(0), **arguments).images for each in (half, pipeline)
    )
    difference = 255 * (result - expected).abs()
    assert "not finite" not in caplog.text
    # bfloat16 has 8 significant bits, so that a level of 255 is the rounding of a bright pixel alone.
    assert difference.mean() < (0.1 if dtype == torch.float16 else 0.5)
    assert difference.max() < (1 if dtype == torch.float16 else 6)
