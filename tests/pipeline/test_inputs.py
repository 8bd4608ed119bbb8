"""Every part of a call makes a difference; sizes, kinds of output, colours and precision."""

import copy
import functools

import numpy as np
import pytest
import torch
from PIL import Image

from tests.components import inputs, tiny_image
from tests.pipeline.tiny import build, built, difference, run

# What the other tests rest on


@pytest.mark.parametrize(
    "change",
    [
        {"image": tiny_image(seed=1)},
        {"prompt": "an old painting"},
        {"negative_prompt": "sharp"},
        {"guidance_scale": 1.0},
        {"controlnet_conditioning_scale": 0.0},
        {"num_inference_steps": 3},
        {"start_point": "noise"},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_input_changes_the_latents(method, change):
    assert difference(latents(method), run(built(method), method, output_type="latent", **change)) > 1e-3


@functools.cache
def latents(method):
    first, second = (run(built(method), method, output_type="latent") for _ in range(2))
    assert torch.equal(first, second)
    return first


def test_every_component_changes_the_result(pipeline, method):
    result = run(pipeline, method)
    for name in ("vae", "text_encoder", "unet", "controlnet", "adapter"):
        with torch.no_grad():
            weights = copy.deepcopy(getattr(pipeline, name).state_dict())
            for parameter in getattr(pipeline, name).parameters():
                parameter.mul_(1.1)
            assert difference(run(pipeline, method), result) > 1e-4, name
            getattr(pipeline, name).load_state_dict(weights)
    assert torch.equal(run(pipeline, method), result)


# Sizes


@pytest.mark.parametrize(
    ("size", "upscale"),
    [
        ((96, 64), 2.5),
        ((96, 64), 1),
        ((33, 57), 4),
        ((33, 57), 1),
        ((9, 20), 4),
        ((9, 20), 2.5),
        ((1, 3), 4),
        ((1, 3), 2.5),
        ((1, 3), 1),
    ],
)
def test_the_result_has_exactly_the_size_asked_for(pipeline, method, size, upscale):
    image = run(
        pipeline, method, image=tiny_image(*size), upscale=upscale, process_size=8, tile_size=128, tile_overlap=32
    )
    assert image.shape == (1, round(size[1] * upscale), round(size[0] * upscale), 3)
    assert image.isfinite().all()


def test_small_images_are_processed_larger_and_given_back_small(pipeline, method):
    large = run(pipeline, method, process_size=64, upscale=2, output_type="latent")
    assert large.shape[-2:] == (8, 8)
    assert run(pipeline, method, process_size=64, upscale=2).shape == (1, 32, 32, 3)


def test_grey_and_transparent_images(pipeline, method):
    grey = tiny_image().convert("L")
    as_rgb = Image.merge("RGB", [grey] * 3)
    assert torch.equal(run(pipeline, method, image=grey), run(pipeline, method, image=as_rgb))
    transparent, on_white = tiny_image().convert("RGBA"), tiny_image()
    assert torch.equal(run(pipeline, method, image=transparent), run(pipeline, method))
    hole = (4, 2, 12, 9)
    transparent.paste((200, 0, 90, 0), hole)
    on_white.paste("white", hole)
    assert torch.equal(run(pipeline, method, image=transparent), run(pipeline, method, image=on_white))
    assert difference(run(pipeline, method, image=on_white), run(pipeline, method)) > 1e-3


def test_output_types(pipeline, method):
    image = run(pipeline, method)
    assert image.dtype == torch.float32
    assert torch.equal(run(pipeline, method, output_type="pt").movedim(1, -1), image)
    pil = pipeline(**{**inputs(method), "output_type": "pil"}).images[0]
    assert np.abs(np.asarray(pil) / 255 - run(pipeline, method).numpy()[0]).max() <= 0.5 / 255 + 1e-6
    (images,) = pipeline(**{**inputs(method), "output_type": "pil"}, return_dict=False)
    assert images[0].tobytes() == pil.tobytes()
    assert run(pipeline, method, output_type="latent").shape == (1, 4, 8, 8)


# Colours


def test_colour_fixes(pipeline, method):
    plain = run(pipeline, method, color_fix=None)
    results = {name: run(pipeline, method, color_fix=name) for name in ("adain", "wavelet")}
    enlarged = np.asarray(tiny_image().resize((64, 64), Image.Resampling.BICUBIC)) / 255
    colour = torch.from_numpy(enlarged).mean((0, 1))
    for result in results.values():
        assert difference(result.mean((0, 1, 2)), colour) < 0.05
        assert difference(result, plain) > 1e-2
    assert difference(plain.mean((0, 1, 2)), colour) > 0.05
    assert difference(*results.values()) > 1e-2
    color_fix = pipeline.config.call_defaults["color_fix"]
    assert torch.equal(run(pipeline, method), plain if color_fix is None else results[color_fix])
    for color_fix, expected in (("wavelet", results["wavelet"]), (None, plain)):
        assert torch.equal(run(build(method, call_defaults={"color_fix": color_fix}), method), expected)


# Precision


def test_bfloat16(pipeline, method):
    pipeline.to(torch.bfloat16)
    image = run(pipeline, method)
    assert image.dtype == torch.float32
    assert image.isfinite().all()
    assert (
        run(pipeline, method, image=tiny_image(24, 16), tile_size=64, tile_overlap=32, output_type="latent")
        .isfinite()
        .all()
    )
