"""Defaults, and what is not allowed."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.components import default_tile_size, tiny_image
from tests.pipeline.tiny import build, built, difference, run


def test_defaults_of_the_pipeline(method):
    pipeline = build(method, call_defaults={"num_inference_steps": 3, "process_size": 16, "guidance_scale": 2.0})
    generator = torch.Generator().manual_seed(0)
    image = pipeline(tiny_image(), generator=generator, output_type="np").images
    assert pipeline.num_timesteps == 3
    assert pipeline.guidance_scale == 2.0
    assert image.shape == (1, 64, 64, 3)
    assert pipeline.config.call_defaults["tile_size"] == default_tile_size(method)
    with pytest.raises(ValueError, match=r"\['steps'\], but can have .*'num_inference_steps'"):
        build(method, call_defaults={"steps": 3})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upscale": 0}, "upscale=0, expected"),
        ({"upscale": -2.0}, "upscale=-2.0"),
        ({"upscale": float("nan")}, "upscale=nan"),
        ({"upscale": 0.01}, "leaves no pixels of an image of 16×16"),
        ({"num_inference_steps": 0}, "num_inference_steps=0, expected a whole number from 1"),
        ({"num_inference_steps": 2.5}, "num_inference_steps=2.5"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt=0"),
        ({"tile_batch_size": 0}, "tile_batch_size=0"),
        ({"upscale": "2"}, "upscale='2', expected"),
        ({"num_inference_steps": "2"}, "num_inference_steps='2', expected a whole number from 1"),
        ({"guidance_scale": "high"}, "guidance_scale='high', expected a number"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan, expected a number"),
        ({"controlnet_conditioning_scale": [1.0]}, r"controlnet_conditioning_scale=\[1.0\], expected a number"),
        ({"tile_size": "64"}, "tile_size='64', expected a multiple of 8"),
        ({"tile_overlap": 8.0}, "tile_overlap=8.0, expected a multiple of 8"),
        ({"process_size": "16"}, "process_size='16', expected a number of pixels from 0"),
        ({"process_size": float("inf")}, "process_size=inf, expected a number of pixels from 0"),
        ({"tile_size": 60}, "tile_size=60, expected a multiple of 8"),
        ({"vae_tile_size": 60}, "vae_tile_size=60, expected a multiple of 8"),
        ({"vae_tile_size": 0}, "vae_tile_size=0, expected a whole number from 1 upwards"),
        ({"tile_size": 0, "tile_overlap": 0}, "tile_overlap=0, expected less than tile_size=0"),
        ({"tile_size": 64, "tile_overlap": 64}, "tile_overlap=64, expected less than tile_size=64"),
        ({"tile_overlap": 4}, "tile_overlap=4, expected a multiple of 8"),
        ({"tile_overlap": -8}, "tile_overlap=-8"),
        ({"process_size": -1}, "process_size=-1"),
        ({"color_fix": "lab"}, "color_fix='lab', expected one of 'adain', 'wavelet', None"),
        ({"start_point": "image"}, "start_point='image', expected one of 'lr', 'noise'"),
        ({"output_type": "jpg"}, "output_type='jpg'"),
        ({"prompt": []}, r"prompt=\[\], expected a text"),
        ({"prompt": 5}, "prompt=5"),
        ({"prompt_embeds": torch.zeros(1, 77, 32)}, "Both `prompt` and `prompt_embeds`"),
        ({"negative_prompt_embeds": torch.zeros(1, 77, 32)}, "Both `negative_prompt`"),
        (
            {"negative_prompt": None, "negative_prompt_embeds": torch.zeros(1, 7, 32)},
            r"\[1, 77, 32\].*\[1, 7, 32\].*differ",
        ),
        ({"negative_prompt": ["a", "b"]}, "2 of `negative_prompt` for 1 images"),
        ({"latents": torch.zeros(1, 4, 8, 9)}, r"\[1, 4, 8, 9\], expected \[1, 4, 8, 8\]"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 results"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, r"has \['noise'\], but a callback can get"),
        ({"image": []}, "empty list"),
        ({"image": [tiny_image(8, 8), tiny_image(8, 9)]}, "8×8, 8×9"),
    ],
)
def test_what_is_not_allowed_is_said(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(built(method), method, **arguments)


def test_numbers_of_numpy_are_numbers(pipeline, method):
    image = tiny_image(24, 16)
    whole: dict[str, Any] = {
        "num_inference_steps": 2,
        "tile_size": 64,
        "tile_overlap": 16,
        "tile_batch_size": 2,
        "process_size": 16,
    }
    whole["num_images_per_prompt"] = 2
    real: dict[str, Any] = {"upscale": 4.0, "guidance_scale": 3.0, "controlnet_conditioning_scale": 0.5}
    expected = run(pipeline, method, image=image, **whole, **real)
    whole = {name: np.int64(value) for name, value in whole.items()}
    real = {name: np.float32(value) for name, value in real.items()}
    assert difference(run(pipeline, method, image=image, **whole, **real), expected) < 1e-5


def test_arguments_can_be_checked_without_a_call(method):
    pipeline = build(method, call_defaults={"tile_overlap": 32})
    pipeline.check_inputs(tile_size=64, num_inference_steps=None)
    with pytest.raises(ValueError, match="tile_overlap=32, expected less than tile_size=32"):
        pipeline.check_inputs(tile_size=32)


def test_an_unknown_argument(pipeline, method):
    with pytest.raises(TypeError, match="sharpness"):
        run(pipeline, method, sharpness=0.5)
