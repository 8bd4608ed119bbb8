"""The ablations of the papers as options of the trainers, and the table of them in the documentation."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import pytest
import torch

from benchmarks.recipes import arguments_class, trainer
from diffusers_sr import hub
from diffusers_sr.cli import upscale
from diffusers_sr.cli.parser import CommandParser
from diffusers_sr.sampling.signature import read_call
from diffusers_sr.training.arguments import parse_arguments
from diffusers_sr.training.cassr import TrainableCasSR, TrainableSCEdit
from diffusers_sr.training.coser import TrainableCoSeR
from diffusers_sr.training.trainable import controlnet_to_train
from diffusers_sr.training.xpsr import TrainableXPSR
from diffusers_sr.xpsr.adapter import XPSRAdapter
from tests.components import components, randomise, scheduler
from tests.seesr.components import tiny_tagger
from tests.training.runs import TRAINING, script, write_noise_photos
from tests.training.stages import Stage, base_of

ROOT = TRAINING.parent
TABLES = (ROOT / "docs" / "ablations.md").read_text()
ROWS = [line.strip("|").split(" | ") for line in TABLES.splitlines() if re.match(r"\| (?!paper|---)", line)]
CODE = re.findall(r"`([^`]+)`", TABLES)


def batch() -> dict[str, Any]:
    return Stage(torch.nn.Identity(), ()).batch()


def predict(denoiser: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The prediction from noise that is always the same, in evaluation mode."""
    noisy = torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    prediction: torch.Tensor = denoiser.eval()(noisy, torch.full((8,), 500), batch)
    return prediction


def test_coser_without_cognition_reads_the_words_alone() -> None:
    predictions = []
    for has_encoder in (True, False):
        parts = components("coser")
        encoder = parts["cognitive_encoder"] if has_encoder else None
        denoiser = TrainableCoSeR(base_of(parts), parts["controlnet"], parts["adapter"], encoder)
        with torch.no_grad():
            predictions.append(predict(denoiser, batch()))
    assert denoiser._frozen == ()
    assert (predictions[0] - predictions[1]).abs().max() > 1e-4


def test_coser_without_reference_needs_none() -> None:
    parts = components("coser")
    kind = type(parts["adapter"])
    adapter = randomise(kind.from_hosts(parts["unet"], parts["controlnet"], reference_attention="none"))
    denoiser = TrainableCoSeR(base_of(parts), parts["controlnet"], adapter, None)
    samples = batch()
    with torch.no_grad():
        expected = predict(denoiser, samples)
        assert torch.equal(predict(denoiser, {**samples, "reference": 1 - samples["reference"]}), expected)
    del samples["reference"]
    predict(denoiser, samples).sum().backward()
    assert all(weight.grad is not None for weight in adapter.parameters())


def test_with_lr_the_enlarged_crop_is_cassrs_reference() -> None:
    predictions = []
    samples = batch()
    for has_activation in (False, True):
        parts = components("cassr")
        activation = parts["activation"] if has_activation else None
        denoiser = TrainableCasSR(base_of(parts), parts["controlnet"], parts["adapter"], activation)
        # With an activation the crop is the reference only if it is given.
        reference = {"reference": denoiser.condition_image(samples)} if has_activation else {}
        with torch.no_grad():
            predictions.append(predict(denoiser, {**samples, **reference}))
    assert torch.equal(*predictions)


def test_a_controlnet_can_be_the_activation() -> None:
    parts = components("cassr")
    base = base_of(parts)
    controlnet = controlnet_to_train(base)
    denoiser = TrainableSCEdit(base, controlnet)
    samples = batch()
    predict(denoiser, samples).sum().backward()
    last = controlnet.controlnet_mid_block.weight.grad  # before it all is zero in a new one
    assert last is not None and last.abs().max() > 0
    images = denoiser.sample({name: each[:1] for name, each in samples.items()}, scheduler(), 1, 1.0)
    assert images.shape == (1, 3, 32, 32)
    stage_2 = TrainableCasSR(base, parts["controlnet"], parts["adapter"], controlnet)
    del samples["reference"]
    with torch.no_grad():
        assert predict(stage_2, samples).isfinite().all()


def test_xpsr_with_the_low_level_prompt_reads_no_other() -> None:
    samples = batch()
    others = {**samples, "tags": ["a dog"] * 8}
    for fusion, is_equal in (("low", True), ("high", False)):
        parts = components("xpsr")
        adapter = XPSRAdapter.from_hosts(parts["unet"], parts["controlnet"], fusion)
        denoiser = TrainableXPSR(base_of(parts), parts["controlnet"], adapter)
        with torch.no_grad():
            assert torch.equal(predict(denoiser, samples), predict(denoiser, others)) is is_equal


def test_a_model_of_an_ablation_loads_without_the_component(tmp_path: Path) -> None:
    """From its own folder, and from that of a base; another model still has to have it."""
    assert hub.pipeline_class("coser").components_left_out({"cognition": False}) == {"cognitive_encoder"}
    kind, parts, call_defaults = hub.pipeline_class("cassr"), components("cassr"), {"activation": "lr"}
    base_of(components("cassr")).save_pretrained(tmp_path / "base")
    kind(**{**parts, "activation": None}, call_defaults=call_defaults).save_pretrained(tmp_path / "model")
    own = {name: parts[name] for name in ("controlnet", "adapter")}
    for pipeline in (
        kind.from_pretrained(tmp_path / "model"),
        kind.from_pretrained(tmp_path / "base", **own, call_defaults=call_defaults),
    ):
        assert pipeline.activation is None
        assert pipeline.config.call_defaults["activation"] == "lr"
    with pytest.raises(ValueError, match="activation"):
        kind.from_pretrained(tmp_path / "base", **own)


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        (
            "coser",
            "--cognition false --references_file r --cognitive_encoder c",
            "--cognition false exclude each other",
        ),
        ("coser", "--references_file r", "one of them is needed"),
        ("coser", "--cognitive_encoder c --reference_attention none --references_file r", "--references_file"),
        ("coser", "--cognition false", "--references_file"),
        ("cassr", "--activation lr --scedit s", "--scedit and --activation lr exclude each other"),
        ("cassr", "--scedit s", "--references_dir and --activation lr"),
        ("xpsr", "--pixel_terms false --latent_terms none", "give --constraint_weight 0"),
    ],
)
def test_options_that_contradict_each_other(stage: str, options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_arguments(arguments_class(trainer(stage)), ["--output_dir", "unused", *shlex.split(options)])


def test_op_and_or_of_a_tagger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says all its tags of both crops; cat and sky are among the annotations, and three of its four are right.

    That it does not know dogs does not count.
    """
    tagger = tiny_tagger()
    torch.nn.init.constant_(tagger.tagging_head.classifier.bias, 1000)
    tagger.save_pretrained(tmp_path / "tagger")
    write_noise_photos(tmp_path / "photos", 2, 32)
    table = tmp_path / "tags.csv"
    table.write_text('file,tags\n0.png,"cat, sky, dog"\n1.png,cat\n')
    options = ["--train_data_dir", tmp_path / "photos", "--tags_file", table, "--tagger", tmp_path / "tagger"]
    script("evaluate_tags").main([*map(str, options), "--resolution", "32", "--device", "cpu"])
    assert capsys.readouterr().out == "OP 0.7500  OR 1.0000  (2 crops)\n"


def test_every_file_and_test_in_the_tables_exists() -> None:
    named = [code for code in CODE if re.match(r"[\w/]+\.py\b", code) and " " not in code]
    assert len(named) > 40
    for code in named:
        path, *names = code.split("::")
        text = (ROOT / path).read_text()
        assert all(re.search(rf"^ *(def|class) {name}\b", text, re.MULTILINE) for name in names), code


def test_every_option_of_a_trainer_in_the_tables_exists() -> None:
    commands = [shlex.split(code) for code in CODE if re.match(r"\w+\.py --", code)]
    assert len(commands) > 15
    for file, *words in commands:
        options = dict(zip(words[::2], words[1::2], strict=True))
        if not file.startswith("train_"):
            assert all(f'"{option}"' in (TRAINING / file).read_text() for option in options)
            continue
        types = get_type_hints(arguments_class(trainer(file[len("train_") : -len(".py")])), include_extras=True)
        for option, value in options.items():
            kind = types[option.removeprefix("--")]
            if get_origin(kind) is Annotated:
                allowed = kind.__metadata__[0]
                assert (value if kind.__origin__ is str else float(value)) in allowed, (file, option)
            elif kind is bool:
                assert value in ("true", "false")


def test_every_argument_and_option_of_a_call_in_the_tables_exists() -> None:
    parser = argparse.ArgumentParser()
    upscale.add_parser(parser.add_subparsers(parser_class=CommandParser))
    methods = {hub.pipeline_class(method).paper.name: method for method in hub.METHODS}
    seen = 0
    for paper, *cells in ROWS:
        for code in re.findall(r"`([^`]+)`", " ".join(cells)):
            if code.startswith("--"):
                parser.parse_args(["upscale", "photo.png", "-o", "result.png", *shlex.split(code)])
                seen += 1
            elif argument := re.match(r"(\w+)=", code):
                call = hub.pipeline_class(methods[paper.strip()]).call_class
                assert argument[1] in call.__dataclass_fields__, code
                seen += 1
    assert seen > 15


def test_the_papers_settings_in_the_table_are_those_of_the_pipelines() -> None:
    last = TABLES[TABLES.index("| paper | settings |") :]
    for method in hub.METHODS:
        kind = hub.pipeline_class(method)
        row = re.search(rf"^\| {kind.paper.name} \| (.*) \|$", last, re.MULTILINE)
        shown = dict(code.split("=", 1) for code in re.findall(r"`([^`]+)`", row[1])) if row else {}
        assert {name: ast.literal_eval(value) for name, value in shown.items()} == kind.paper_settings
        read_call(kind.call_class, (), kind.paper_settings, kind._call_defaults, kind.__name__)
