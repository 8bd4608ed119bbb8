"""The steps of `CasSRPipeline` that are its own; tests/pipeline has those that all methods share."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionControlNetPipeline

from diffusers_sr.cassr.adapter import CasSRAdapter
from diffusers_sr.cassr.denoiser import CasSRControl
from diffusers_sr.cassr.pipeline import general_prompts
from diffusers_sr.image.pixels import read_images, resize
from diffusers_sr.sampling.guidance import Guidance
from tests.cassr.pipelines import build, difference, mirror, run, stock_pipeline, tiny_activation_controlnet
from tests.components import components, tiny_image


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a dog"},
        {"negative_prompt": "dots"},
        {"guidance_scale": 2.0},
        {"image": tiny_image(seed=3)},
        {"start_point": "noise"},
        {"controlnet_conditioning_scale": 0.5},
        {"reference_conditioning_scale": 0.5},
        {"reference_images": tiny_image(seed=9)},
        {"activation": "lr"},
        {"activation": mirror},
        {"activation": tiny_activation_controlnet()},
        {"activation_steps": 3},
        {"activation_guidance_scale": 2.0},
    ],
    ids=lambda change: "-".join(
        f"{name}={value if isinstance(value, (str, float, int)) else type(value).__name__}"
        for name, value in change.items()
    ),
)
def test_every_argument_makes_a_difference(change: dict[str, Any]) -> None:
    pipeline = build()
    # One that draws no noise: what the first stage draws, the second does not get.
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    first = run(pipeline)
    assert torch.equal(run(pipeline), first)
    assert difference(run(pipeline, **change), first) > 1e-4


# Stage 2


def test_without_weight_for_either_image_it_is_stock_stable_diffusion() -> None:
    pipeline = build()
    noise, embeds = torch.randn(1, 4, 8, 8), pipeline.encode_prompt("a", "b")
    given: dict[str, Any] = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1], "latents": noise}
    given |= {"num_inference_steps": 3, "guidance_scale": 5.5, "output_type": "latent"}
    expected = stock_pipeline(pipeline)(**given, generator=torch.Generator().manual_seed(0)).images
    given |= {"prompt": None, "negative_prompt": None, "start_point": "noise"}
    scales = {"controlnet_conditioning_scale": 0, "reference_conditioning_scale": 0}
    assert torch.equal(run(pipeline, **given, **scales), expected)
    for name in scales:
        assert difference(run(pipeline, **given, **{**scales, name: 1}), expected) > 1e-2


def test_what_is_new_is_stable_diffusion_with_a_controlnet() -> None:
    """Before training, with a ControlNet that is trained, on the image once or, as its own reference, twice."""
    parts = components("cassr")
    pipeline = build(adapter=CasSRAdapter.from_hosts(parts["unet"], parts["controlnet"]))
    noise = torch.randn(1, 4, 8, 8)
    given: dict[str, Any] = {"prompt": None, "prompt_embeds": pipeline.encode_prompt("a")[0], "latents": noise}
    given |= {"num_inference_steps": 3, "guidance_scale": 1.0, "output_type": "latent"}
    stock = stock_pipeline(pipeline, StableDiffusionControlNetPipeline, controlnet=parts["controlnet"])
    image = resize(read_images(tiny_image()), (64, 64))
    for scale, controls in (
        (1.0, {"reference_conditioning_scale": 0}),
        (0.5, {"reference_conditioning_scale": 0, "controlnet_conditioning_scale": 0.5}),
        (0.7, {"reference_conditioning_scale": 0.4, "controlnet_conditioning_scale": 0.3, "activation": "lr"}),
    ):
        expected = stock(
            **given, image=image, controlnet_conditioning_scale=scale, generator=torch.Generator().manual_seed(0)
        ).images
        latents = run(pipeline, **given, **controls, negative_prompt=None, start_point="noise")
        assert difference(latents, expected) < 1e-5


def test_image_and_reference_cannot_be_exchanged() -> None:
    pipeline = build()
    first, second = (resize(read_images(tiny_image(seed=seed)), (64, 64)) for seed in (0, 1))
    embeds, noise = pipeline.encode_prompt("a", "b"), torch.randn(1, 4, 8, 8)

    @torch.no_grad()
    def denoise(lr: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        call = pipeline.check_inputs(generator=torch.Generator().manual_seed(0))
        control, guidance = CasSRControl(lr, reference), Guidance(*embeds, 5.5)
        return pipeline.denoise(call, pipeline.denoiser(call), control, guidance, noise, pipeline.prepare_scheduler(2))

    assert torch.equal(denoise(first, second), denoise(first, second))
    assert difference(denoise(first, second), denoise(second, first)) > 1e-4


def test_work_is_shared_by_steps_and_by_both_halves_of_the_guidance() -> None:
    pipeline, counts = build(), Counter[str]()
    attentions = [attention for site in pipeline.adapter.unet.values() for attention in site.values()]
    modules = {
        "text_encoder": [pipeline.text_encoder],
        "encoder": [pipeline.vae.encoder],
        "decoder": [pipeline.vae.decoder],
        "hints": [pipeline.activation.hint_embedding],
        "condition": [pipeline.controlnet.controlnet_cond_embedding.conv_in],
        "controlnet": [pipeline.controlnet],
        "unet": [pipeline.unet],
        "keys": [attention.attn.to_k for attention in attentions],
        "attention": [attention.attn for attention in attentions],
    }
    for name, parts in modules.items():
        for part in parts:
            part.register_forward_hook(lambda *_, name=name: counts.update([name]))
    steps, activation_steps = 3, 2
    arguments = {"num_inference_steps": steps, "activation_steps": activation_steps}
    for tiles, size in ((1, {}), (2, {"image": tiny_image(16, 24), "tile_size": 64, "tile_overlap": 32})):
        counts.clear()
        run(pipeline, **arguments, **size)
        assert counts == {
            "text_encoder": 1,
            "encoder": 1,
            "decoder": 2,  # of the reference, and of the result
            "hints": tiles,
            "condition": 2 * tiles,
            "controlnet": steps * tiles,  # both images in one call
            "unet": (activation_steps + steps) * tiles,
            "keys": len(attentions) * steps * tiles,
            "attention": len(attentions) * steps * tiles,
        }
    counts.clear()
    run(pipeline, **arguments, reference_conditioning_scale=0)
    assert counts["hints"] == 0
    assert (counts["condition"], counts["decoder"], counts["unet"]) == (1, 1, steps)
    assert counts["attention"] == len(attentions) / 2 * steps


# Texts


def test_the_prompt_is_the_papers_general_one() -> None:
    assert general_prompts(["", "a cat"]) == ["clean, high-resolution", "a cat, clean, high-resolution"]
    pipeline, texts = build(), []

    def read(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        texts.append(pipeline.tokenizer.batch_decode(tokens, skip_special_tokens=True))

    pipeline.text_encoder.register_forward_pre_hook(read, with_kwargs=True)
    run(pipeline, prompt=None, negative_prompt=None)
    run(pipeline, prompt="a cat", negative_prompt="bad", image=[tiny_image()] * 2)
    run(pipeline, prompt=["x", "y"], guidance_scale=1.0, image=[tiny_image()] * 2)

    def as_read(*texts: str) -> list[str]:
        return pipeline.tokenizer.batch_decode(pipeline.tokenizer(list(texts)).input_ids, skip_special_tokens=True)

    assert texts == [
        as_read("clean, high-resolution", ""),
        as_read("a cat, clean, high-resolution", "bad"),
        as_read("x, clean, high-resolution", "y, clean, high-resolution"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference_conditioning_scale": "1"}, "reference_conditioning_scale='1', expected a number"),
        ({"activation_guidance_scale": float("nan")}, "activation_guidance_scale=nan, expected a number"),
        ({"activation_steps": 0}, "activation_steps=0, expected a whole number from 1"),
        ({"activation": "esrgan"}, "activation='esrgan', expected an SCEditAdapter, .* or 'lr'"),
        ({"activation": "lr", "reference_images": tiny_image()}, "Both `reference_images` and `activation`"),
        ({"reference_images": []}, "`reference_images` is an empty list"),
        ({"reference_images": [tiny_image()] * 3}, "3 of `reference_images` for 1 images"),
    ],
)
def test_what_is_not_allowed_is_said(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(build(), **arguments)


def test_a_function_that_returns_no_image() -> None:
    with pytest.raises(TypeError, match="An image is a NoneType, expected a path, a URL, a PIL image"):
        run(build(), activation=lambda image: None)
