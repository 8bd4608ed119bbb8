"""What `CasSRPipeline` does besides the steps all methods share (tests/pipeline)."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.cassr.adapter import CasSRAdapter
from diffusers_sr.cassr.denoiser import CasSRControl
from diffusers_sr.cassr.pipeline import CasSRPipeline, general_prompts
from diffusers_sr.image.pixels import read_images, resize
from diffusers_sr.sampling.guidance import Guidance
from diffusers_sr.sampling.photo import Start
from tests.components import components, inputs, tiny_controlnet, tiny_image

STOCK = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


def build(**overrides: Any) -> CasSRPipeline:
    pipeline = CasSRPipeline(**{**components("cassr"), **overrides})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline: CasSRPipeline, **overrides: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.as_tensor(pipeline(**{**inputs("cassr"), "generator": generator, **overrides}).images)


def control(pipeline: CasSRPipeline, **overrides: Any) -> CasSRControl:
    """The image and the reference of a call."""
    made = []

    class Prepared(Exception):
        pass

    prepare = pipeline.prepare_control

    @functools.wraps(prepare)
    def spy(*args: Any, **kwargs: Any) -> CasSRControl:
        made.append(prepare(*args, **kwargs))
        raise Prepared

    pipeline.prepare_control = spy
    with pytest.raises(Prepared):
        run(pipeline, **overrides)
    pipeline.prepare_control = prepare
    return made[0]


def stock_pipeline(pipeline: CasSRPipeline, kind: type[Any] = StableDiffusionPipeline, **parts: Any) -> Any:
    """Diffusers' own pipeline of copies of the stock components, to which nothing is attached."""
    stock = {name: copy.deepcopy(pipeline.components[name]) for name in STOCK}
    pipeline.adapter.detach(stock["unet"])
    made = kind(**stock, **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def first_latents(pipeline: CasSRPipeline, noise: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """What sampling starts from, from an enlarged image."""
    call = pipeline.check_inputs()
    start = Start(noise, pipeline.encode_image(call, image))
    return pipeline.prepare_latents(call, start, pipeline.prepare_scheduler(2))


def tiny_activation_controlnet() -> ControlNetModel:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        controlnet = tiny_controlnet().eval()
        for parameter in controlnet.controlnet_cond_embedding.parameters():
            if parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)
    return controlnet


def mirror(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


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
    given = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1], "latents": noise}
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
    given = {"prompt": None, "prompt_embeds": pipeline.encode_prompt("a")[0], "latents": noise}
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
            "encoder": tiles,
            "decoder": 2 * tiles,  # of the reference, and of the result
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


# Stage 1


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
def test_the_activation_is_saved_with_the_pipeline(kind: type[Any], tmp_path: object) -> None:
    pipeline = build() if kind is SCEditAdapter else build(activation=tiny_activation_controlnet())
    pipeline.save_pretrained(tmp_path)
    loaded = CasSRPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.activation) is kind
    assert difference(run(loaded), run(pipeline)) < 1e-5  # weights of a file lie elsewhere in memory


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
    with pytest.raises(TypeError, match="An image is a NoneType, expected a PIL image"):
        run(build(), activation=lambda image: None)
