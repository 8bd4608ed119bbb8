"""What `XPSRPipeline` does besides the steps all methods share (tests/pipeline)."""

from __future__ import annotations

import copy
import json
import logging
from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
)
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig
from PIL import Image

from diffusers_sr.image.pixels import read_images, resize
from diffusers_sr.sampling.guidance import Guidance
from diffusers_sr.sampling.photo import Start
from diffusers_sr.xpsr.adapter import XPSRAdapter
from diffusers_sr.xpsr.degradation_prompt import describe_degradation
from diffusers_sr.xpsr.denoiser import XPSRControl, XPSRDenoiser
from diffusers_sr.xpsr.pasd import joined_prompts
from diffusers_sr.xpsr.pipeline import XPSRPipeline
from diffusers_sr.xpsr.prompts import ImagePrompts
from tests.components import TEXT_DIM, components, inputs, randomise, tiny_image

STOCK = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
QUALITY = "clean, high-resolution, 8k, high quality, clear text."
NEGATIVE = "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed."
NEGATIVE_LOW_LEVEL = "high resolution, best quality, clear"
# The prompts of `inputs` that are embeddings, left out.
AS_TEXTS = {"low_level_prompt_embeds": None, "negative_low_level_prompt_embeds": None}


def build(**overrides: Any) -> XPSRPipeline:
    pipeline = XPSRPipeline(**{**components("xpsr"), **overrides})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_pasd() -> XPSRPipeline:
    parts = components("xpsr")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapter = randomise(XPSRAdapter.from_hosts(parts["unet"], parts["controlnet"], fusion=False))
    return build(**{**parts, "adapter": adapter})


def run(pipeline: XPSRPipeline, **overrides: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.as_tensor(pipeline(**{**inputs("xpsr"), "generator": generator, **overrides}).images)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


class Describer:
    """A captioner that says of every image how large it is, and remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[list[Image.Image]] = []

    def __call__(self, images: list[Image.Image]) -> list[ImagePrompts]:
        self.seen.append(images)
        return [ImagePrompts(f"{image.width} wide", f"{image.height} high") for image in images]


def texts_read(pipeline: XPSRPipeline) -> list[list[str]]:
    """A list to which every call of the text encoder adds the texts it is given."""
    texts: list[list[str]] = []

    def read(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        texts.append(pipeline.tokenizer.batch_decode(tokens, skip_special_tokens=True))

    pipeline.text_encoder.register_forward_pre_hook(read, with_kwargs=True)
    return texts


def as_read(pipeline: XPSRPipeline, *texts: str) -> list[str]:
    return pipeline.tokenizer.batch_decode(pipeline.tokenizer(list(texts)).input_ids, skip_special_tokens=True)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Any:
    diffusers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        yield caplog
    diffusers_logging.disable_propagation()


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a dog"},
        {"high_level_prompt": "a dog"},
        {"quality_prompt": "sharp"},
        {"negative_prompt": "dots"},
        {"low_level_prompt": "blurred"},
        {"negative_low_level_prompt": "dots"},
        {"guide_low_level": False},
        {"low_level_prompt_embeds": torch.ones(1, 77, TEXT_DIM)},
        {"negative_low_level_prompt_embeds": torch.ones(1, 77, TEXT_DIM)},
        {"captioner": Describer()},
        {"captioner": "measured"},
        {"guidance_scale": 2.0},
        {"image": tiny_image(seed=3)},
        {"start_point": "noise"},
        {"added_noise_level": 100},
        {"controlnet_conditioning_scale": 0.5},
    ],
    ids=lambda change: "-".join(f"{name}={value}"[:40] for name, value in change.items()),
)
def test_every_argument_makes_a_difference(change: dict[str, Any]) -> None:
    pipeline = build()
    first = run(pipeline, **AS_TEXTS)
    assert torch.equal(run(pipeline, **AS_TEXTS), first)
    assert difference(run(pipeline, **{**AS_TEXTS, **change}), first) > 1e-4


@pytest.mark.parametrize("part", ["unet", "controlnet"])
@pytest.mark.parametrize("kind", ["low_level", "fusion"])
def test_every_part_of_the_adapter_makes_a_difference(part: str, kind: str) -> None:
    pipeline = build()
    first = run(pipeline)
    for site in getattr(pipeline.adapter, part).values():
        transformer = site if part == "unet" else site[kind]
        with torch.no_grad():
            transformer.transformer_blocks[0].attn2.to_v.weight.mul_(2)
        second = run(pipeline)
        assert difference(first, second) > 1e-5
        first = second


# The adapter in the loop


@pytest.mark.parametrize("fusion", [True, False])
def test_what_is_new_is_stable_diffusion_with_a_controlnet(fusion: bool) -> None:
    parts = components("xpsr")
    parts["adapter"] = XPSRAdapter.from_hosts(parts["unet"], parts["controlnet"], fusion=fusion)
    pipeline = build(**parts)
    stock = StableDiffusionControlNetPipeline(
        **{name: copy.deepcopy(parts[name]) for name in STOCK},
        controlnet=copy.deepcopy(parts["controlnet"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    stock.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    noise, embeds = torch.randn(1, 4, 8, 8), pipeline.encode_prompt("a", "b")
    given = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1], "latents": noise}
    given |= {"num_inference_steps": 3, "guidance_scale": 5.5, "output_type": "latent"}
    expected = stock(
        **given,
        image=resize(read_images(tiny_image()), (64, 64)),
        controlnet_conditioning_scale=0.7,
        generator=torch.Generator().manual_seed(0),
    ).images
    given |= {"prompt": None, "negative_prompt": None, "start_point": "noise", "controlnet_conditioning_scale": 0.7}
    low_level = {} if fusion else AS_TEXTS
    # Latents go up to 10 here, and the weights of copies lie elsewhere in memory.
    assert difference(run(pipeline, **given, **low_level), expected) < 1e-4
    randomise(pipeline.adapter)
    assert difference(run(pipeline, **given, **low_level), expected) > 1e-2


def test_low_level_prompts_stay_with_their_images() -> None:
    """In batches of tiles, and with several results of an image."""
    pipeline = build()
    images = [tiny_image(16, 24, seed=seed) for seed in (0, 1)]
    texts = ["blurred", "noisy and dark"]
    arguments = {**AS_TEXTS, "tile_size": 64, "tile_overlap": 32, "tile_batch_size": 2}
    together = run(
        pipeline,
        image=images,
        low_level_prompt=texts,
        generator=[torch.Generator().manual_seed(seed) for seed in range(4)],
        num_images_per_prompt=2,
        **arguments,
    )
    for index in range(4):
        alone = run(
            pipeline,
            image=images[index // 2],
            low_level_prompt=texts[index // 2],
            generator=torch.Generator().manual_seed(index),
            **{**arguments, "tile_batch_size": 1},
        )
        assert difference(together[index], alone[0]) < 1e-5
        other = run(
            pipeline,
            image=images[index // 2],
            low_level_prompt=texts[1 - index // 2],
            generator=torch.Generator().manual_seed(index),
            **arguments,
        )
        assert difference(together[index], other[0]) > 1e-4


def test_what_does_not_change_is_computed_once() -> None:
    pipeline, counts = build(), Counter[str]()
    adapter = pipeline.adapter
    low_level = [site["low_level"].transformer_blocks[0].attn2 for site in adapter.controlnet.values()]
    fusion = [site["fusion"].transformer_blocks[0].attn2 for site in adapter.controlnet.values()]
    pixel = [transformer.transformer_blocks[0].attn2 for transformer in adapter.unet.values()]
    modules = {
        "text_encoder": [pipeline.text_encoder],
        "encoder": [pipeline.vae.encoder],
        "decoder": [pipeline.vae.decoder],
        "condition": [pipeline.controlnet.controlnet_cond_embedding.conv_in],
        "controlnet": [pipeline.controlnet],
        "unet": [pipeline.unet],
        "low-level keys": [attention.to_k for attention in low_level],
        "fusion keys": [attention.to_k for attention in fusion],
        "pixel keys": [attention.to_k for attention in pixel],
    }
    for name, parts in modules.items():
        for part in parts:
            part.register_forward_hook(lambda *_, name=name: counts.update([name]))
    steps = 3
    for tiles, size in ((1, {}), (2, {"image": tiny_image(16, 24), "tile_size": 64, "tile_overlap": 32})):
        for variant, halves in (({}, 2), ({"guide_low_level": False}, 1), ({"guidance_scale": 1.0}, 1)):
            counts.clear()
            run(pipeline, num_inference_steps=steps, **AS_TEXTS, **size, **variant)
            assert counts == {
                "text_encoder": 2,  # the high-level prompts, and the low-level ones
                "encoder": tiles,
                "decoder": tiles,
                "condition": tiles,
                "controlnet": steps * tiles,
                "unet": steps * tiles,
                "low-level keys": halves * len(low_level),
                "fusion keys": steps * tiles * len(fusion),
                "pixel keys": steps * tiles * len(pixel),
            }


def test_the_constraint_is_no_part_of_the_pipeline(tmp_path: Any) -> None:
    """The converter writes its heads beside the components, for training; nothing of them is loaded."""
    pipeline = build()
    expected = {"vae", "text_encoder", "tokenizer", "unet", "controlnet", "adapter", "scheduler"}
    assert set(pipeline.components) == expected
    pipeline.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == expected
    constraint = tmp_path / "constraint"
    constraint.mkdir()
    (constraint / "config.json").write_text(json.dumps({"_class_name": "NoSuchClass"}))
    loaded = XPSRPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert set(loaded.components) == expected
    assert difference(run(loaded), run(pipeline)) < 1e-5  # weights of a file lie elsewhere in memory


# Guidance


def predictions(guide_low_level: bool, scale: float = 3.0) -> tuple[torch.Tensor, ...]:
    """The noise with guidance, and that of its two halves with the low-level prompts each should have."""
    pipeline = build()
    latents, timestep, image = torch.randn(2, 4, 8, 8), torch.tensor(500), torch.rand(2, 3, 64, 64)
    (negative, positive), (low_negative, low_positive) = torch.randn(2, 2, 2, 7, TEXT_DIM)
    pipeline.adapter.attach(pipeline.unet).attach(pipeline.controlnet)
    with torch.no_grad():
        prepared = [pipeline.adapter("prepare_low_level", text) for text in (low_negative, low_positive)]
        given = prepared if guide_low_level else prepared[1:]

        def predict(texts: list[torch.Tensor], low_level: list[Any]) -> torch.Tensor:
            denoiser = XPSRDenoiser(pipeline.unet, pipeline.controlnet, pipeline.adapter, 0.9)
            guidance = Guidance(texts[-1], texts[0] if len(texts) == 2 else None, scale)
            return guidance.combine(denoiser.predict(latents, timestep, guidance.texts, XPSRControl(image, low_level)))

        guided = predict([negative, positive], given)
        # Halves alone, as after a callback that switches the guidance off, have the last of the low-level prompts.
        halves = predict([negative], [prepared[0] if guide_low_level else prepared[1]]), predict([positive], given)
        other = predict([negative], [prepared[1] if guide_low_level else prepared[0]])
    return guided, *halves, other


@pytest.mark.parametrize("guide_low_level", [True, False])
def test_guidance_of_both_prompts_or_of_the_high_level_prompt_alone(guide_low_level: bool) -> None:
    torch.manual_seed(0)
    guided, negative, positive, other = predictions(guide_low_level)
    assert difference(guided, negative + 3.0 * (positive - negative)) < 1e-4
    assert difference(guided, other + 3.0 * (positive - other)) > 1e-2


def test_a_negative_prompt_that_is_the_prompt_is_no_guidance() -> None:
    pipeline = build()
    same = {"prompt": "", "high_level_prompt": "", "quality_prompt": "x", "negative_prompt": "x"}
    same |= {**AS_TEXTS, "low_level_prompt": "y"}
    expected = run(pipeline, **same, guidance_scale=1.0)
    assert difference(run(pipeline, **same, guide_low_level=False), expected) < 1e-4
    assert difference(run(pipeline, **same, negative_low_level_prompt="y"), expected) < 1e-4
    assert difference(run(pipeline, **same), expected) > 1e-3


def test_guidance_can_be_switched_off_in_the_middle() -> None:
    pipeline, sizes = build(), []
    pipeline.controlnet.conv_in.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))

    def cut_off(pipeline: XPSRPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        pipeline._guidance_scale = 1.0
        return {}

    changed = run(pipeline, callback_on_step_end=cut_off)
    assert sizes == [2, 1]
    assert changed.isfinite().all()
    assert difference(changed, run(pipeline)) > 1e-4


# Prompts


def test_prompts_are_the_official_ones() -> None:
    pipeline = build()
    texts = texts_read(pipeline)
    images = [tiny_image()] * 2
    defaults = {**AS_TEXTS, "prompt": None, "negative_prompt": None}
    run(pipeline, **{**defaults, "high_level_prompt": "A cat."})
    run(pipeline, **{**defaults, "high_level_prompt": None, "low_level_prompt": "Noisy.", "prompt": "at night"})
    run(
        pipeline,
        **{**defaults, "prompt": "x", "high_level_prompt": ["A.", "B."], "image": images, "guidance_scale": 1.0},
        quality_prompt="fine",
        guide_low_level=False,
        low_level_prompt=["C.", "D."],
    )
    assert texts == [
        as_read(pipeline, "", NEGATIVE_LOW_LEVEL),
        as_read(pipeline, f"A cat. {QUALITY}", NEGATIVE),
        as_read(pipeline, "Noisy.", NEGATIVE_LOW_LEVEL),
        as_read(pipeline, f"at night, {QUALITY}", NEGATIVE),
        as_read(pipeline, "C.", "D."),
        as_read(pipeline, "x, A. fine", "x, B. fine"),
    ]


def test_prompts_of_user_and_captioner_are_joined() -> None:
    assert joined_prompts(["", "x"], ["A."]) == ["A.", "x, A."]
    assert joined_prompts(["x"], ["", "B."]) == ["x,", "x, B."]
    with pytest.raises(ValueError, match="There are 2 prompts for 3 images"):
        joined_prompts(["x", "y"], ["A.", "B.", "C."])


@pytest.mark.parametrize(
    ("prompt", "kept"),
    [
        (None, "word0 word1 word2 word3 word4"),
        ("an old photo", "an old photo, word0 word1 word2"),
        ("very " * 60, "very very very very very very very"),
    ],
)
def test_a_long_caption_leaves_the_quality_words_in_the_prompt(prompt: str | None, kept: str, warnings: Any) -> None:
    pipeline, read = build(), []
    pipeline.text_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"] if kwargs else args[0]), with_kwargs=True
    )
    caption = " ".join(f"word{number}" for number in range(200))
    pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, high_level_prompt=caption)
    start, end = pipeline.tokenizer.bos_token_id, pipeline.tokenizer.eos_token_id
    ((tokens,),) = read
    assert len(tokens) == 77
    assert tokens[0] == start
    content = tokens[1 : tokens.tolist().index(end)].tolist()
    quality = pipeline.tokenizer(QUALITY).input_ids[1:-1]
    assert content[-len(quality) :] == quality
    assert pipeline.tokenizer.decode(content[: -len(quality)]) == as_read(pipeline, kept)[0]
    (message,) = [record.getMessage() for record in warnings.records if record.name == "diffusers_sr.texts"]
    head, said = message.split(" it does not read ")
    assert head == "The text encoder reads 77 tokens:"
    whole = f"{prompt}, {caption}" if prompt else caption
    assert said == f"{whole.removeprefix(kept).strip()!r} of {whole!r}, to leave room for {QUALITY!r}."


def test_a_text_that_is_inserted_for_a_token_counts(warnings: Any) -> None:
    pipeline = build()
    pipeline.load_textual_inversion({"<cat-toy>": torch.randn(20, TEXT_DIM)})
    texts = texts_read(pipeline)
    pipeline.encode_prompt("<cat-toy>", do_classifier_free_guidance=False, high_level_prompt="a caption of six words.")
    assert texts[0][0].endswith(as_read(pipeline, QUALITY)[0])
    assert "caption of six words." in warnings.text


def test_a_long_low_level_prompt_is_cut_off(warnings: Any) -> None:
    pipeline = build()
    embeds = pipeline.encode_low_level_prompts("word " * 100, pipeline.check_inputs())
    assert {name: embed.shape for name, embed in embeds.items()} == {
        "low_level_prompt": (1, 77, TEXT_DIM),
        "negative_low_level_prompt": (1, 77, TEXT_DIM),
    }
    assert "reads 77 tokens" in warnings.text


def test_a_lora_of_the_text_encoder_is_in_both_prompts() -> None:
    pipeline = build()
    given = {**AS_TEXTS, "low_level_prompt": "noisy", "prompt": None, "negative_prompt": None}
    embeds = pipeline.encode_prompt("a", "b")
    given |= {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
    expected = run(pipeline, **given)
    pipeline.text_encoder.add_adapter(
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False), adapter_name="style"
    )
    changed = run(pipeline, **given)
    assert difference(changed, expected) > 1e-3
    assert difference(run(pipeline, **given, cross_attention_kwargs={"scale": 0.0}), expected) < 1e-5
    assert difference(run(pipeline, **given, cross_attention_kwargs={"scale": 0.5}), changed) > 1e-4


# The captioner


def test_the_captioner_is_asked_for_what_is_missing() -> None:
    images = [tiny_image(16, 12, seed=seed) for seed in (0, 1)]
    pipeline, captioner = build(), Describer()
    texts = texts_read(pipeline)
    given = {**AS_TEXTS, "image": images, "captioner": captioner, "prompt": None, "negative_prompt": "n"}

    run(pipeline, **{**given, "high_level_prompt": None})
    assert [[image.tobytes() for image in call] for call in captioner.seen] == [[image.tobytes() for image in images]]
    assert texts[-2:] == [
        as_read(pipeline, "12 high", "12 high", NEGATIVE_LOW_LEVEL),
        as_read(pipeline, f"16 wide {QUALITY}", f"16 wide {QUALITY}", "n"),
    ]
    run(pipeline, **{**given, "high_level_prompt": "A cat."})
    run(pipeline, **{**given, "high_level_prompt": None}, low_level_prompt=["y", "z"])
    assert texts[-4:] == [
        as_read(pipeline, "12 high", "12 high", NEGATIVE_LOW_LEVEL),
        as_read(pipeline, f"A cat. {QUALITY}", "n"),
        as_read(pipeline, "y", "z", NEGATIVE_LOW_LEVEL),
        as_read(pipeline, f"16 wide {QUALITY}", f"16 wide {QUALITY}", "n"),
    ]
    assert len(captioner.seen) == 3
    run(pipeline, **given, low_level_prompt="y")
    embeds = {"low_level_prompt_embeds": torch.ones(1, 77, TEXT_DIM)}
    run(pipeline, **{**given, **embeds})
    assert len(captioner.seen) == 3


def test_the_low_level_prompt_can_be_measured(tmp_path: Any) -> None:
    image = tiny_image(24, 16)
    pipeline = build()
    texts = texts_read(pipeline)
    given = {**AS_TEXTS, "prompt": None, "high_level_prompt": None, "image": image}
    measured = describe_degradation(read_images(image)[0])
    result = run(pipeline, **given, captioner="measured")
    assert texts == [as_read(pipeline, measured, NEGATIVE_LOW_LEVEL), as_read(pipeline, QUALITY, "blur")]
    assert torch.equal(result, run(pipeline, **given, low_level_prompt=measured))
    run(pipeline, **given, low_level_prompt="dim", captioner="measured")
    assert texts[-2][0] == as_read(pipeline, "dim")[0]

    own = build(call_defaults={"captioner": "measured"})
    assert torch.equal(run(own, **given), result)
    own.save_pretrained(tmp_path)
    assert XPSRPipeline.from_pretrained(tmp_path).config.call_defaults["captioner"] == "measured"


# The start


def first_latents(
    pipeline: XPSRPipeline, noise: torch.Tensor, image_latents: torch.Tensor, level: int | None = None
) -> torch.Tensor:
    """What sampling starts from, at the first of the timesteps that are set."""
    call = pipeline.check_inputs(added_noise_level=level)
    return pipeline.prepare_latents(call, Start(noise, image_latents), pipeline.scheduler)


def test_the_start_is_that_of_the_official_code_in_distribution() -> None:
    """Noise at the first timestep, and on that noise at the second: the same mean, and the same variance."""
    pipeline = build()
    scheduler = pipeline.scheduler
    for steps, level in ((20, 800), (4, 400), (4, 0)):
        scheduler.set_timesteps(steps)
        first = scheduler.timesteps[:1]
        assert int(first) == {20: 951, 4: 751}[steps]
        image, none = torch.randn(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)

        def twice(image: torch.Tensor, noise: torch.Tensor, more_noise: torch.Tensor) -> torch.Tensor:
            once = scheduler.add_noise(image, noise, first)  # noqa: B023
            return scheduler.add_noise(once, more_noise, torch.tensor([level]))  # noqa: B023

        mean = first_latents(pipeline, none, image, level)
        torch.testing.assert_close(mean, twice(image, none, none))
        ones = torch.ones_like(none)
        deviation = first_latents(pipeline, ones, none, level)
        both = twice(none, ones, none).square() + twice(none, none, ones).square()
        torch.testing.assert_close(deviation.square(), both)
        if level == 800:
            assert torch.equal(deviation, first_latents(pipeline, ones, none))


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_a_scheduler_that_counts_in_sigmas_starts_where_the_others_do(spacing: str) -> None:
    """The UNet is given the same at the first step."""
    pipeline = build()
    noise, image = torch.randn(2, 1, 4, 8, 8)
    inputs_of_unet = []
    for kind in (DDIMScheduler, EulerDiscreteScheduler):
        scheduler = pipeline.scheduler = kind.from_config(pipeline.scheduler.config, timestep_spacing=spacing)
        scheduler.set_timesteps(4)
        start = first_latents(pipeline, noise, image)
        inputs_of_unet.append(scheduler.scale_model_input(start, scheduler.timesteps[0]))
    assert difference(*inputs_of_unet) < 2e-2
    assert inputs_of_unet[0].std() > 0.8


def test_a_scheduler_without_the_training_timesteps_starts_at_its_first_step() -> None:
    pipeline = build()
    scheduler = pipeline.scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(4)
    noise, image = torch.randn(2, 1, 4, 8, 8)
    expected = image + scheduler.sigmas[0] * noise
    torch.testing.assert_close(first_latents(pipeline, noise, image), expected)


# PASD


def test_pasd_has_no_low_level_prompt() -> None:
    pipeline, captioner = build_pasd(), Describer()
    texts = texts_read(pipeline)
    given = {**AS_TEXTS, "prompt": None, "negative_prompt": "n"}
    first = run(pipeline, **given)
    assert texts == [as_read(pipeline, f"a tree. {QUALITY}", "n")]
    assert torch.equal(run(pipeline, **given, captioner="measured"), first)
    assert torch.equal(run(pipeline, **given, captioner=captioner), first)
    assert captioner.seen == []
    run(pipeline, **{**given, "high_level_prompt": None}, captioner=captioner)
    assert texts[-1] == as_read(pipeline, f"16 wide {QUALITY}", "n")
    assert difference(run(pipeline, **given, guidance_scale=1.0), first) > 1e-4
    for low_level in ({"low_level_prompt": "noisy"}, {"low_level_prompt_embeds": torch.ones(1, 77, TEXT_DIM)}):
        with pytest.raises(ValueError, match="no semantic fusion that could read it"):
            run(pipeline, **{**given, **low_level})


# What is not allowed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"high_level_prompt": 5}, "high_level_prompt=5, expected a text"),
        ({"high_level_prompt": []}, r"high_level_prompt=\[\], expected a text"),
        ({"high_level_prompt": ["a"] * 3, "prompt": ["b", "c"]}, "2 of `prompt` for 1 images"),
        ({"high_level_prompt": ["a"] * 3}, "3 of `high_level_prompt` for 1 images"),
        ({"low_level_prompt": 5, **AS_TEXTS}, "low_level_prompt=5, expected a text"),
        ({"low_level_prompt": ["a"] * 3, **AS_TEXTS}, "3 of `low_level_prompt` for 1 images"),
        ({"low_level_prompt": "a"}, "Both `low_level_prompt` and `low_level_prompt_embeds` are given"),
        (
            {"negative_low_level_prompt": "a"},
            "Both `negative_low_level_prompt` and `negative_low_level_prompt_embeds`",
        ),
        (
            {"negative_low_level_prompt": "a", "negative_low_level_prompt_embeds": None},
            r"`low_level_prompt`, \[1, 7, 32\], and of `negative_low_level_prompt`, \[1, 77, 32\], differ in tokens",
        ),
        ({"negative_low_level_prompt": ["a"] * 3, **AS_TEXTS}, "3 of `negative_low_level_prompt` for 1 images"),
        ({"low_level_prompt_embeds": torch.ones(1, 7, 9), "guide_low_level": False}, r"\[1, 7, 9\], expected .* 32\]"),
        ({"quality_prompt": ["a"]}, r"quality_prompt=\['a'\], expected one text"),
        ({"captioner": "llava"}, "captioner='llava', expected a function .* or 'measured'"),
        (
            {"captioner": lambda images: [], **AS_TEXTS},
            "The captioner returned 0 prompts for 1 images: it has to return one",
        ),
        ({"added_noise_level": 1000}, "added_noise_level=1000, expected a timestep of the training, from 0 to 999"),
        ({"added_noise_level": -1}, "added_noise_level=-1"),
        ({"added_noise_level": "800"}, "added_noise_level='800'"),
        ({"guide_low_level": "no"}, "guide_low_level='no', expected True or False"),
    ],
)
def test_what_is_not_allowed_is_said(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(build(), **arguments)


def test_without_text_encoder_the_low_level_prompt_is_missed_by_name() -> None:
    pipeline = build(text_encoder=None, tokenizer=None)
    with pytest.raises(
        ValueError, match=r"no text encoder.*`low_level_prompt_embeds`.*`negative_low_level_prompt_embeds`"
    ):
        run(pipeline, **AS_TEXTS)
    with pytest.raises(ValueError, match=r"no text encoder.*`prompt_embeds`.*`negative_prompt_embeds`"):
        run(pipeline)
