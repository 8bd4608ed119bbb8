"""The prompts of `XPSRPipeline`: the user's, the captioner's and the official ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig

from diffusers_sr.image.pixels import read_images
from diffusers_sr.xpsr.adapter import XPSRAdapter
from diffusers_sr.xpsr.degradation_prompt import describe_degradation
from diffusers_sr.xpsr.pasd import joined_prompts
from diffusers_sr.xpsr.pipeline import XPSRPipeline
from tests.components import TEXT_DIM, components, tiny_image
from tests.xpsr.pipelines import (
    AS_TEXTS,
    NEGATIVE,
    NEGATIVE_LOW_LEVEL,
    QUALITY,
    Describer,
    as_read,
    build,
    difference,
    run,
    texts_read,
)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Any:
    diffusers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        yield caplog
    diffusers_logging.disable_propagation()


def test_prompts_are_the_official_ones() -> None:
    pipeline = build()
    texts = texts_read(pipeline)
    images = [tiny_image()] * 2
    defaults: dict[str, Any] = {**AS_TEXTS, "prompt": None, "negative_prompt": None}
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


def test_caption_overflow_cuts_as_the_official_code(warnings: Any) -> None:
    pipeline = build()
    texts = texts_read(pipeline)
    caption = " ".join(f"word{number}" for number in range(200))
    call: dict[str, Any] = {**AS_TEXTS, "prompt": None, "high_level_prompt": caption, "guidance_scale": 1.0}
    run(pipeline, **call, caption_overflow="cut")
    # 75 letters and digits, each a token of this tokenizer.
    (cut,) = as_read(pipeline, caption.replace(" ", "")[:75])
    assert texts[1][0].replace(" ", "") == cut.replace(" ", "")
    assert f"{QUALITY!r}" not in warnings.text
    assert "clear text." in warnings.text
    run(pipeline, **call)
    assert texts[3][0].endswith(as_read(pipeline, QUALITY)[0])
    short = {**call, "high_level_prompt": "A cat."}
    for overflow in ("cut", "shorten"):
        run(pipeline, **short, caption_overflow=overflow)
        assert texts[-1] == as_read(pipeline, f"A cat. {QUALITY}")
    assert pipeline.write_prompt("", "", "", caption_overflow="cut") == [""]
    with pytest.raises(ValueError, match="caption_overflow='drop', expected one of 'shorten', 'cut'"):
        pipeline.check_inputs(caption_overflow="drop")
    pipeline.register_to_config(call_defaults={**pipeline.config.call_defaults, "caption_overflow": "cut"})
    assert pipeline.write_prompt(None, caption) == [f"{caption} {QUALITY}"]


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
    given: dict[str, Any] = {**AS_TEXTS, "low_level_prompt": "noisy", "prompt": None, "negative_prompt": None}
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


def test_the_low_level_prompt_can_be_measured(tmp_path: Path) -> None:
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


def test_the_low_level_prompt_may_take_the_place_of_the_high_level_one() -> None:
    parts = components("xpsr")
    pipeline = build(adapter=XPSRAdapter.from_hosts(parts["unet"], parts["controlnet"], "low"))
    texts = texts_read(pipeline)
    options: dict[str, Any] = {**AS_TEXTS, "prompt": None, "negative_prompt": None, "high_level_prompt": None}
    for given in ({"low_level_prompt": "Noisy."}, {"captioner": Describer()}):
        run(pipeline, **{**options, "num_inference_steps": 1}, **given)
    assert texts == [as_read(pipeline, f"{text} {QUALITY}", NEGATIVE) for text in ("Noisy.", "16 high")]
    with pytest.raises(ValueError, match="trained with the low-level prompt in its place"):
        run(pipeline, **{**options, "high_level_prompt": "A cat."})
