"""The options of `diffusers-sr upscale` for what only some pipelines take."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from diffusers_sr import hub
from diffusers_sr.cli.method_options import call_class, method_arguments
from diffusers_sr.xpsr.prompts import ImagePrompts, write_official
from tests.cli.photos import files, pixels
from tests.components import tiny_image


def test_every_option_of_coser_reaches_the_pipeline(run, coser):
    for name, seed in (("photo", 0), ("one", 1), ("two", 2)):
        tiny_image(16, 12, seed=seed).save(f"{name}.png")

    def result(*arguments: str) -> np.ndarray:
        assert run("photo.png", "-o", "big.png", "--model", coser, "--steps", "2", *arguments) == 0
        return pixels("big.png")

    results = [
        result(),
        result("--num-references", "2"),
        result("--num-references", "0"),
        result("--cfw-weight", "0"),
        result("--reference", "one.png"),
        result("--reference", "two.png"),
        result("--reference", "one.png", "--reference", "two.png"),
    ]
    for first, second in itertools.combinations(range(len(results)), 2):
        assert not np.array_equal(results[first], results[second]), (first, second)
    assert np.array_equal(results[0], result("--num-references", "1", "--cfw-weight", "0.5", "--method", "coser"))


def test_every_option_of_xpsr_reaches_the_pipeline(run, xpsr, language_model):
    tiny_image(16, 12).save("photo.png")
    write_official("written", "photo", ImagePrompts("a cat", "dim"))
    write_official("other", "photo", ImagePrompts("a dog", "dim"))
    write_official("long", "photo", ImagePrompts("a dog " * 20, "dim"))

    def result(*arguments: str) -> np.ndarray:
        assert run("photo.png", "-o", "big.png", "--model", xpsr, "--steps", "2", *arguments) == 0
        return pixels("big.png")

    results = [
        result(),
        result("--low-level-prompt", "dim"),
        result("--captioner", "measured"),
        result("--captioner", language_model),
        result("--prompts", "written"),
        result("--prompts", "other"),
        result("--prompts", "other", "--low-level-prompt", "bright"),
        result("--prompts", "long"),
        result("--prompts", "long", "--caption-overflow", "cut"),
    ]
    for first, second in itertools.combinations(range(len(results)), 2):
        assert not np.array_equal(results[first], results[second]), (first, second)
    assert np.array_equal(results[0], result("--low-level-prompt", "", "--method", "xpsr"))


def test_prompts_of_each_image(run, xpsr, capsys):
    """Every image has its own; one without is reported."""
    for number, name in enumerate(("a", "b", "c")):
        tiny_image(seed=number).save(f"{name}.png")
    for name in ("a", "c"):
        write_official("prompts", name, ImagePrompts(f"the letter {name}", "dim"))
    images = ("a.png", "b.png", "c.png")
    assert run(*images, "-o", "out", "--model", xpsr, "--prompts", "prompts") == 1
    assert files("out") == ["a.png", "c.png"]
    assert "b.png: There is no prompts/highlevel_prompt/b.txt" in capsys.readouterr().err
    assert run("c.png", "-o", "alone.png", "--model", xpsr, "--prompts", "prompts") == 0
    assert np.array_equal(pixels("out/c.png"), pixels("alone.png"))


def test_prompts_for_pasd_are_its_high_level_ones(run, pasd):
    tiny_image().save("photo.png")
    results = []
    for prompts in (ImagePrompts("a cat", "dim"), ImagePrompts("a cat", "bright"), ImagePrompts("a dog", "dim")):
        write_official("prompts", "photo", prompts)
        assert run("photo.png", "-o", "big.png", "--model", pasd, "--method", "pasd", "--prompts", "prompts") == 0
        results.append(pixels("big.png"))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reference", "photo.png"), "is a SeeSRPipeline, which has no --reference"),
        (("--low-level-prompt", "dim"), "is a SeeSRPipeline, which has no --low-level-prompt"),
        (("--prompts", "nowhere"), "is a SeeSRPipeline, which has no --prompts"),
        (("--captioner", "no/model"), "is a SeeSRPipeline, which has no --captioner"),
        (("--captioner", "measured", "--prompts", "nowhere"), "not allowed with argument"),
        (("--num-references", "2", "--cfw-weight", "1"), "which has no --num-references, --cfw-weight"),
        (("--reference", "nowhere.png"), "argument --reference: nowhere.png: there is no such file"),
        (("--reference", "text.png"), "argument --reference: text.png: is not an image that can be read"),
        (("--reference", "photo.png", "--num-references", "2"), "not allowed with argument --reference"),
        (("--cfw-weight", "much"), "argument --cfw-weight: invalid float value: 'much'"),
        (("--num-references", "1.5"), "argument --num-references: invalid int value: '1.5'"),
    ],
)
def test_options_of_a_method_that_make_no_sense(run, capsys, arguments, message):
    tiny_image().save("photo.png")
    Path("text.png").write_text("This is not a photograph.")
    with pytest.raises(SystemExit) as exit:
        run("photo.png", "-o", "out", *arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
    assert files() == ["photo.png", "text.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cfw-weight", "1.5"), "cfw_weight=1.5, expected a number from 0 to 1"),
        (("--cfw-weight", "nan"), "cfw_weight=nan, expected a number from 0 to 1"),
        (("--num-references", "-1"), "num_references=-1, expected a whole number from 0 upwards"),
        (("--captioner", "measured"), "is a CoSeRPipeline, which has no --captioner"),
    ],
)
def test_values_that_the_call_refuses(run, coser, capsys, arguments, message):
    """They are wrong for all images, and said once, before the first of them."""
    for name in ("a.png", "b.png"):
        tiny_image().save(name)
    with pytest.raises(SystemExit) as exit:
        run("a.png", "b.png", "-o", "out", "--model", coser, *arguments)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.count(message) == 1
    assert ".png" not in error
    assert files() == ["a.png", "b.png"]


def test_pasd_has_no_low_level_prompt(run, pasd, capsys):
    tiny_image().save("photo.png")
    with pytest.raises(SystemExit) as exit:
        run("photo.png", "-o", "big.png", "--model", pasd, "--low-level-prompt", "dim")
    assert exit.value.code == 2
    assert "is a PASDPipeline, which has no --low-level-prompt" in capsys.readouterr().err


def test_every_option_of_a_one_step_model_reaches_the_pipeline(run, one_step):
    tiny_image(16, 12).save("photo.png")

    def result(*arguments: str) -> np.ndarray:
        assert run("photo.png", "-o", "big.png", "--model", one_step, "--method", "one_step", *arguments) == 0
        return pixels("big.png")

    results = [result(), result("--pixel-scale", "0.5"), result("--semantic-scale", "0.5")]
    for first, second in itertools.combinations(range(len(results)), 2):
        assert not np.array_equal(results[first], results[second]), (first, second)


def test_a_one_step_model_has_no_steps_and_no_guidance(run, one_step, capsys):
    tiny_image().save("photo.png")
    with pytest.raises(SystemExit) as exit:
        run("photo.png", "-o", "big.png", "--model", one_step, "--steps", "4", "--guidance-scale", "2")
    assert exit.value.code == 2
    assert "is a OneStepPipeline, which has no --steps, --guidance-scale" in capsys.readouterr().err


def test_what_a_one_step_model_does_anyway_may_be_asked_for(run, one_step):
    tiny_image().save("photo.png")
    model = ("--model", one_step)
    assert run("photo.png", "-o", "big.png", *model) == 0
    assert run("photo.png", "-o", "same.png", *model, "--steps", "1", "--guidance-scale", "1", "--strength", "1") == 0
    assert np.array_equal(pixels("big.png"), pixels("same.png"))


def test_which_pipelines_take_what():
    assert {name: argument.pipelines for name, argument in method_arguments().items()} == {
        "tags": ["SeeSR", "OneStep"],
        "psr_weight": ["SeeSR"],
        "reference_images": ["CoSeR", "CasSR"],
        "activation": ["CasSR"],
        "num_references": ["CoSeR"],
        "cfw_weight": ["CoSeR"],
        "captioner": ["XPSR", "PASD"],
        "caption_overflow": ["XPSR", "PASD"],
        "low_level_prompt": ["XPSR"],
        "pixel_scale": ["OneStep"],
        "semantic_scale": ["OneStep"],
    }


@pytest.mark.parametrize("method", hub.METHODS)
def test_the_call_is_found_without_the_pipeline(method):
    assert call_class(hub.METHODS[method]) is hub.pipeline_class(method).call_class


def test_the_papers_settings_are_one_switch(run):
    """What is given overrides them."""
    tiny_image(16, 12).save("photo.png")

    def result(*arguments: str) -> np.ndarray:
        assert run("photo.png", "-o", "big.png", *arguments) == 0
        return pixels("big.png")

    paper = result("--paper")
    assert np.array_equal(paper, result("--official-preprocessing", "--prompt", "None"))
    assert not np.array_equal(result("--paper", "--prompt", "cat"), paper)
