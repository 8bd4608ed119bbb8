"""The steps of `CoSeRPipeline` that are its own; tests/pipeline has those that all methods share."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, EulerDiscreteScheduler, StableDiffusionPipeline

from diffusers_sr.coser.adapter import CoSeRAdapter
from diffusers_sr.coser.pipeline import CoSeRPipeline
from diffusers_sr.image.pixels import read_images, resize, resize_as_torch
from diffusers_sr.training.coser import TrainableCoSeR
from tests.components import components, inputs, tiny_image


def build(**overrides: Any) -> CoSeRPipeline:
    pipeline = CoSeRPipeline(**{**components("coser"), **overrides})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline: CoSeRPipeline, **overrides: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.as_tensor(pipeline(**{**inputs("coser"), "generator": generator, **overrides}).images)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a dog"},
        {"negative_prompt": "dots"},
        {"guidance_scale": 2.0},
        {"image": tiny_image(seed=3)},
        {"cognitive_embedding": torch.ones(1, 3, 32)},
        {"num_references": 2},
        {"reference_images": tiny_image(seed=9)},
        {"reference_images": [tiny_image(seed=9), tiny_image(20, 12, seed=8)]},
        {"reference_guidance_scale": 1.5},
        {"cfw_weight": 0.25},
        {"cfw_weight": 0.0},
        {"start_point": "noise"},
    ],
    ids=lambda change: "-".join(change),
)
def test_every_argument_makes_a_difference(change: dict[str, Any]) -> None:
    pipeline = build()
    first = run(pipeline)
    assert torch.equal(run(pipeline), first)
    assert difference(run(pipeline, **change), first) > 1e-4


def test_the_order_of_references_and_their_tiles() -> None:
    """Side by side in one call, references are seen whole by every tile unless they were made for it."""
    pipeline = build()
    image, tiles = tiny_image(24, 16), {"tile_size": 48, "tile_overlap": 16}
    generated = run(pipeline, image=image, **tiles)
    assert generated.shape == (1, 64, 96, 3)
    given = run(pipeline, image=image, reference_images=tiny_image(seed=9), **tiles)
    assert difference(given, generated) > 1e-4
    batched = run(pipeline, image=image, reference_images=tiny_image(seed=9), **tiles, tile_batch_size=4)
    assert difference(batched, given) < 1e-4


@pytest.mark.parametrize(("bicubic", "enlarge"), [("pillow", resize), ("torch", resize_as_torch)])
def test_images_are_enlarged_as_those_of_the_training(bicubic: Any, enlarge: Any) -> None:
    parts = components("coser")
    adapter = CoSeRAdapter(parts["adapter"].config.unet_sites, bicubic=bicubic)
    adapter.load_state_dict(parts["adapter"].state_dict())
    image = tiny_image(16, 12)
    expected = enlarge(read_images(image), (48, 64))
    pipeline = build(adapter=adapter)
    assert torch.equal(pipeline.prepare_image(pipeline.check_inputs(image, process_size=0)).enlarged, expected)
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    base = StableDiffusionPipeline(**{name: parts[name] for name in names}, **options)
    trainable = TrainableCoSeR(base, parts["controlnet"], adapter, parts["cognitive_encoder"])
    batch = {"degraded": read_images(image), "target": torch.zeros(1, 3, 48, 64)}
    assert torch.equal(trainable.condition_image(batch), expected)


def test_work_is_shared_by_both_halves_of_the_guidance() -> None:
    pipeline, counts = build(), Counter[str]()
    attentions = list(pipeline.adapter.unet.values())
    modules = {
        "cognitive_encoder": [pipeline.cognitive_encoder],
        "text_encoder": [pipeline.text_encoder],
        "controlnet": [pipeline.controlnet],
        "unet": [pipeline.unet],
        "reference attention": [attention.attn_reference for attention in attentions],
        "lr projection": [attention.proj_lr for attention in attentions],
        "lr keys": [attention.attn_lr.to_k for attention in attentions],
        "lr attention": [attention.attn_lr for attention in attentions],
    }
    for name, parts in modules.items():
        for part in parts:
            part.register_forward_hook(lambda *_, name=name: counts.update([name]))
    steps, sites = 3, len(attentions)
    run(pipeline, num_inference_steps=steps, guidance_scale=3.0, reference_guidance_scale=3.0)
    assert counts == {
        "cognitive_encoder": 1,
        "text_encoder": 1,
        "controlnet": 2 * steps,
        "unet": 2 * steps + 2 * steps,  # for the reference, and for the result
        "reference attention": sites * steps,
        "lr projection": sites * steps,
        "lr keys": sites * steps,
        "lr attention": 2 * sites * steps,
    }


def test_a_scheduler_that_remembers_starts_anew_after_the_reference() -> None:
    pipeline = build()
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    first = run(pipeline, num_references=2)
    assert first.isfinite().all()
    assert torch.equal(run(pipeline, num_references=2), first)


def test_without_the_optional_components() -> None:
    pipeline = build(cfw=None, cognitive_encoder=None)
    embedding = components("coser")["cognitive_encoder"](torch.rand(1, 3, 16, 16)).embedding.detach()
    assert run(pipeline, cognitive_embedding=embedding).isfinite().all()
    with pytest.raises(ValueError, match="no cognitive encoder"):
        run(pipeline)


def test_without_cognition_the_words_alone_are_the_text() -> None:
    pipeline = build()
    lengths = []
    pipeline.unet.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["encoder_hidden_states"].shape[1]), with_kwargs=True
    )
    run(pipeline, num_inference_steps=1, guidance_scale=1.0, num_references=0)
    without = run(pipeline, num_inference_steps=1, guidance_scale=1.0, num_references=0, cognition=False)
    assert lengths == [77 + 3, 77]
    alone = build(cognitive_encoder=None)
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "num_references": 0, "cognition": False}
    assert torch.equal(run(alone, **options), without)


def test_an_adapter_without_attention_to_references_makes_none() -> None:
    """It computes what one with attention does without a reference."""
    parts = components("coser")
    without = CoSeRAdapter.from_hosts(parts["unet"], parts["controlnet"], reference_attention="none")
    weights = parts["adapter"].state_dict()
    assert {key for key in weights if key not in without.state_dict()} == {
        key for key in weights if "reference" in key
    }
    without.load_state_dict({key: weights[key] for key in without.state_dict()})
    expected = run(build(), num_inference_steps=1, num_references=0)
    pipeline = build(adapter=without)
    assert torch.equal(run(pipeline, num_inference_steps=1), expected)
    assert difference(run(build(), num_inference_steps=1), expected) > 1e-4
    with pytest.raises(ValueError, match="without attention to references"):
        run(pipeline, reference_images=tiny_image())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_references": -1}, "num_references=-1, expected a whole number from 0 upwards"),
        ({"cognition": "no"}, "cognition='no', expected True or False"),
        ({"cognition": False, "cognitive_embedding": torch.ones(1, 3, 32)}, "cognition=False leaves it out"),
        ({"reference_images": []}, "`reference_images` is an empty list"),
        ({"num_references": "2"}, "num_references='2'"),
        ({"cfw_weight": 2.0}, "cfw_weight=2.0, expected a number from 0 to 1"),
        ({"cognitive_embedding": torch.ones(3, 3, 32)}, "3 of `cognitive_embedding` for 1 images"),
    ],
)
def test_what_is_not_allowed_is_said(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(build(), **arguments)


def test_an_autoencoder_without_layers_to_join(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = build(
        vae=AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        )
    )
    first = run(pipeline)
    assert "AutoencoderTiny decodes without" in caplog.text
    assert torch.equal(run(pipeline, cfw_weight=0), first)
    with pytest.raises(TypeError, match="AutoencoderTiny, expected an AutoencoderKL"):
        run(pipeline, cfw_weight=0.5)
