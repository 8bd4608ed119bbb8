"""The reference of `CasSRPipeline`: made by the activation, by a function, or given."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, EulerDiscreteScheduler, StableDiffusionControlNetPipeline
from PIL import Image

from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.cassr.pipeline import CasSRPipeline
from diffusers_sr.image.pixels import read_images, resize
from tests.cassr.pipelines import (
    build,
    control,
    difference,
    first_latents,
    mirror,
    run,
    stock_pipeline,
    tiny_activation_controlnet,
)
from tests.components import tiny_image


def test_scedit_makes_the_reference_by_stock_stable_diffusion() -> None:
    pipeline = build()
    noise, embeds = torch.randn(1, 4, 8, 8), pipeline.encode_prompt("a", "b")
    image = resize(read_images(tiny_image()), (64, 64))
    given = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
    stock = stock_pipeline(pipeline)
    with torch.no_grad():
        start = first_latents(pipeline, noise, image)
        activation = copy.deepcopy(pipeline.activation).attach(stock.unet)
        hints = activation.embed(image)

    for steps, scale in ((2, 7.5), (4, 3.0)):
        with activation.conditioning(hints=hints):
            expected = stock(
                **given,
                latents=start,
                guidance_scale=scale,
                num_inference_steps=steps,
                generator=torch.Generator().manual_seed(0),
                output_type="pt",
            ).images
        made = control(
            pipeline,
            **given,
            prompt=None,
            negative_prompt=None,
            latents=noise,
            num_inference_steps=2,
            activation_steps=None if steps == 2 else steps,
            activation_guidance_scale=None if steps == 2 else scale,
        )
        assert torch.equal(made.lr, image)
        assert difference(made.reference, expected) < 1e-5
        assert difference(made.reference, image) > 1e-2


def test_a_controlnet_makes_the_reference_as_in_diffusers() -> None:
    controlnet = tiny_activation_controlnet()
    pipeline = build(activation=controlnet)
    noise, embeds = torch.randn(1, 4, 8, 8), pipeline.encode_prompt("a", "b")
    image = resize(read_images(tiny_image()), (64, 64))
    given = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
    stock = stock_pipeline(pipeline, StableDiffusionControlNetPipeline, controlnet=copy.deepcopy(controlnet))
    with torch.no_grad():
        start = first_latents(pipeline, noise, image)
    expected = stock(
        **given,
        image=image,
        latents=start,
        guidance_scale=7.5,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    made = control(pipeline, **given, prompt=None, negative_prompt=None, latents=noise)
    assert difference(made.reference, expected) < 1e-5
    # The pipeline's component, or given in a call: in a pipeline saved with one, too.
    assert torch.equal(run(pipeline), run(build(activation=None), activation=controlnet))


def test_a_function_is_given_each_image_as_it_is() -> None:
    seen = []

    def enlarge(image: Image.Image) -> Image.Image:
        seen.append(image)
        return mirror(image).resize((128, 96))

    images = [tiny_image(16, 12, seed=seed) for seed in (0, 1)]
    made = control(build(), image=images, activation=enlarge, process_size=64)
    assert [image.tobytes() for image in seen] == [image.tobytes() for image in images]
    assert made.lr.shape == made.reference.shape == (2, 3, 64, 88)  # from 64 × 85
    for image, reference in zip(images, made.reference, strict=True):
        expected = resize(read_images(mirror(image).resize((128, 96))), (64, 85))
        assert torch.equal(reference[None, ..., :85], expected)


def test_the_image_is_its_own_reference() -> None:
    made = control(build(), image=tiny_image(9, 7), activation="lr")
    assert made.lr.shape == (1, 3, 32, 40)
    assert torch.equal(made.reference, made.lr)


def test_given_references_lie_on_the_image() -> None:
    """They show what it shows, and are padded as it is."""
    pipeline = build()
    reference = torch.rand(1, 3, 28, 36)
    made = control(pipeline, image=tiny_image(9, 7), reference_images=reference)
    assert made.reference.shape == made.lr.shape == (1, 3, 32, 40)
    assert torch.equal(made.reference[..., :28, :36], reference)
    assert torch.equal(made.reference[..., 28:, :36], reference[..., -1:, :].expand(-1, -1, 4, -1))

    images, references = [tiny_image(seed=0), tiny_image(seed=1)], [tiny_image(20, 20, seed=2), tiny_image(seed=3)]
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    together = run(pipeline, image=images, reference_images=references, generator=generators, num_images_per_prompt=2)
    for index in range(4):
        alone = run(
            pipeline,
            image=images[index // 2],
            reference_images=references[index // 2],
            generator=torch.Generator().manual_seed(index),
        )
        assert difference(together[index], alone[0]) < 1e-5
    one = run(pipeline, image=images, reference_images=references[0])
    assert torch.equal(run(pipeline, image=images, reference_images=[references[0]] * 2), one)


def test_a_scheduler_that_remembers_starts_anew_after_the_reference() -> None:
    pipeline = build()
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    timesteps: list[int] = []

    def watch(pipeline: CasSRPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        timesteps.append(int(timestep))
        return {}

    reference = control(pipeline, activation_steps=5).reference
    result = run(pipeline, activation_steps=5, callback_on_step_end=watch)
    assert (len(timesteps), pipeline.num_timesteps) == (2, 2)
    assert result.isfinite().all()
    # With the reference at hand the second stage is the same.
    assert torch.equal(run(pipeline, reference_images=reference), result)


def test_without_guidance_in_either_stage() -> None:
    pipeline, sizes = build(), []
    pipeline.unet.conv_in.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    run(pipeline, guidance_scale=1.0)
    run(pipeline, activation_guidance_scale=1.0)
    assert sizes == [1, 1, 1, 1, 1, 1, 2, 2]


def test_the_activation_leaves_nothing_in_force() -> None:
    pipeline = build()
    call = (torch.randn(1, 4, 8, 8), 500, torch.randn(1, 77, 32))
    with torch.no_grad():
        before = pipeline.unet(*call).sample
        run(pipeline)
        assert pipeline.activation.is_attached(pipeline.unet)
        assert not pipeline.activation.is_conditioned
        assert torch.equal(pipeline.unet(*call).sample, before)


def test_without_activation() -> None:
    pipeline = build(activation=None)
    assert run(pipeline, activation="lr").isfinite().all()
    assert run(pipeline, reference_images=tiny_image()).isfinite().all()
    assert run(pipeline, reference_conditioning_scale=0).isfinite().all()
    with pytest.raises(ValueError, match=r"no activation to make the reference with: load one"):
        run(pipeline)
    own = build(activation=None, call_defaults={"activation": "lr"})
    assert torch.equal(run(own), run(pipeline, activation="lr"))


@pytest.mark.parametrize("kind", [SCEditAdapter, ControlNetModel])
def test_the_activation_is_saved_with_the_pipeline(kind: type[Any], tmp_path: Path) -> None:
    pipeline = build() if kind is SCEditAdapter else build(activation=tiny_activation_controlnet())
    pipeline.save_pretrained(tmp_path)
    loaded = CasSRPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.activation) is kind
    assert difference(run(loaded), run(pipeline)) < 1e-5  # weights of a file lie elsewhere in memory
