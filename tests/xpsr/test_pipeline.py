"""The steps of `XPSRPipeline` that are its own; tests/pipeline has those that all methods share."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline

from diffusers_sr.image.pixels import read_images, resize
from diffusers_sr.xpsr.adapter import XPSRAdapter
from diffusers_sr.xpsr.pipeline import XPSRPipeline
from tests.components import TEXT_DIM, components, randomise, tiny_image
from tests.xpsr.pipelines import AS_TEXTS, QUALITY, Describer, as_read, build, build_pasd, difference, run, texts_read

STOCK = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


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
    given: dict[str, Any] = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1], "latents": noise}
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
                "encoder": 1,
                "decoder": 1,
                "condition": tiles,
                "controlnet": steps * tiles,
                "unet": steps * tiles,
                "low-level keys": halves * len(low_level),
                "fusion keys": steps * tiles * len(fusion),
                "pixel keys": steps * tiles * len(pixel),
            }


def test_the_constraint_is_no_part_of_the_pipeline(tmp_path: Path) -> None:
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
