"""Options: recipes and values that cannot be meant, as YAML, the command line and code give them."""

from __future__ import annotations

import runpy
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from diffusers_sr.training.arguments import RestorationArguments, option, parse_arguments
from diffusers_sr.training.publish import HubArguments
from diffusers_sr.training.ranges import Count
from diffusers_sr.training.text import TextArguments
from tests.training.runs import TRAINING, script

OUTPUT = ["--output_dir", "runs"]


@dataclass(kw_only=True)
class ExampleArguments(RestorationArguments, TextArguments, HubArguments):
    """An example."""

    width: Count = option(3, "Width.")
    depths: list[Count] = field(default_factory=lambda: [2, 2])
    sites: list[str] = field(default_factory=list)


def parse(*words: str) -> ExampleArguments:
    return parse_arguments(ExampleArguments, [*OUTPUT, *words])


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 7\nwidth: 5\n")
    return path


@pytest.mark.parametrize("form", ["--config {}", "--config={}", "--conf {}", "--conf={}", "--seed 7 --config {}"])
def test_a_recipe_is_read_however_it_is_named(recipe: Path, form: str) -> None:
    options = parse(*form.format(recipe).split())
    assert (options.seed, options.width) == (7, 5)
    assert parse(*form.format(recipe).split(), "--width", "6").width == 6
    assert parse("--width=6", *form.format(recipe).split()).width == 6


def test_what_is_required_may_be_in_the_recipe(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text("output_dir: there\n")
    assert parse_arguments(ExampleArguments, [f"--config={recipe}"]).output_dir == "there"
    recipe.write_text("seed: 7\n")
    with pytest.raises(SystemExit) as ended:
        parse_arguments(ExampleArguments, [f"--config={recipe}"])
    assert ended.value.code == 2
    assert "required: --output_dir" in capsys.readouterr().err


def test_a_recipe_is_read_as_the_command_line_is(recipe: Path) -> None:
    recipe.write_text(
        "learning_rate: 1e-4\nadam_epsilon: 1\nmixed_precision: no\nsharpen_target: off\ntrain_data_dir: 2024-01-31\n"
        "hub_model_id: 0x10\ntags_file: null\nexclude_data:\ndepths: [1, 2]\nsites: [no, 1.0]\nseed: '3'\n"
    )
    options = parse("--config", str(recipe))
    assert options.learning_rate == 1e-4
    assert options.adam_epsilon == 1
    assert options.mixed_precision == "no"
    assert options.sharpen_target is False
    assert options.train_data_dir == "2024-01-31"
    assert options.hub_model_id == "0x10"
    assert options.tags_file is None and options.exclude_data is None
    assert options.depths == [1, 2]
    assert options.sites == ["no", "1.0"]
    assert options.seed == 3


def test_what_a_recipe_gives_can_be_left_out(recipe: Path) -> None:
    """Only where that is the default: elsewhere the word is a value like any other."""
    recipe.write_text(
        "mixed_precision: bf16\nmax_train_samples: 5\ntags_file: tags.csv\nresume_from_checkpoint: latest\n"
        "sites: [up_blocks]\n"
    )
    words = ("--mixed_precision", "none", "--max_train_samples=none", "--tags_file", "none")
    options = parse("--config", str(recipe), *words, "--dataset_split", "none", "--resume_from_checkpoint=none")
    assert [options.mixed_precision, options.max_train_samples, options.tags_file] == [None, None, None]
    assert options.resume_from_checkpoint is None and options.dataset_split == "none"
    assert options.sites == ["up_blocks"] and parse("--config", str(recipe), "--sites", "none").sites == []
    with pytest.raises(SystemExit):
        parse("--seed", "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty, but has to hold lines such as 'seed: 1'"),
        (b"# nothing\n", "it is empty"),
        (b"- seed\n", "it is a YAML sequence"),
        (b"seed\n", "it is a YAML scalar"),
        (b"seed: 1\nwidth: 2\nseed: 1\n", r"\['seed'\] are there twice"),
        (b"seed: [1\n", "is not valid YAML: while parsing a flow sequence .* line 1"),
        (b"seed: \xe9\n", "is not valid YAML: "),
        (b"seed: 1\n---\nwidth: 1\n", "is not valid YAML: expected a single document"),
        (b"seed: " + b"[" * 5000, "is nested too deeply|is not valid YAML"),
        (b"seed: !!python/object:os.system 1\n", "is not valid YAML: could not determine a constructor"),
        (b"width: 2024-13-45\n", "month must be in 1..12"),
        (b"widht: 5\n", r"unknown options \['widht'\] in the recipe; allowed are \['adam_beta1'"),
        (b"config: other.yaml\n", r"unknown options \['config'\]"),
        (b"help: true\n", r"unknown options \['help'\]"),
        (b"1: 2\n[a]: 3\n", r"unknown options \['1', '<sequence>'\]"),
        (b"depths: 2\n", r"depths is 2 in the recipe, but has to be a list: \[2\]"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_named_in_one_line(recipe: Path, content: bytes, message: str) -> None:
    recipe.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        parse("--config", str(recipe))
    assert str(recipe) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing.yaml' cannot be read \(No such file or directory\)"):
        parse(f"--config={tmp_path / 'missing.yaml'}")
    with pytest.raises(ValueError, match=r"cannot be read \(Is a directory\)"):
        parse(f"--config={tmp_path}")


def test_two_recipes_are_refused(recipe: Path) -> None:
    with pytest.raises(ValueError, match=r"--config is given more than once, .*: write one recipe"):
        parse(f"--config={recipe}", "--config", str(recipe))


WRONG: list[tuple[str, Any, str]] = [
    ("seed", 1.5, "seed=1.5: it has to be a whole number, at least 0 and at most 4294967295"),
    ("seed", True, "seed=True: it has to be a whole number"),
    ("seed", -1, "seed=-1: "),
    ("seed", 2**32, "seed=4294967296: "),
    ("seed", None, "seed=None: "),
    ("max_train_steps", -5, "max_train_steps=-5: it has to be a whole number, at least 1."),
    ("max_train_steps", 10.0, "max_train_steps=10.0: "),
    ("train_batch_size", 0, "train_batch_size=0: it has to be a whole number, at least 1."),
    ("checkpointing_steps", 0, "checkpointing_steps=0: "),
    ("checkpoints_total_limit", 0, "checkpoints_total_limit=0: "),
    ("log_every", 0, "log_every=0: "),
    ("validation_steps", 0, "validation_steps=0: "),
    ("num_validation_images", 0, "num_validation_images=0: "),
    ("gradient_accumulation_steps", 0, "gradient_accumulation_steps=0: "),
    ("resolution", 0, "resolution=0: "),
    ("lr_warmup_steps", -1, "lr_warmup_steps=-1: it has to be a whole number, at least 0."),
    ("dataloader_num_workers", -1, "dataloader_num_workers=-1: "),
    ("max_train_samples", 0, "max_train_samples=0: it has to be a whole number, at least 1 or left out"),
    ("learning_rate", -1.0, "learning_rate=-1.0: it has to be a number, at least 0."),
    ("learning_rate", float("nan"), "learning_rate=nan: "),
    ("learning_rate", float("inf"), "learning_rate=inf: "),
    ("max_grad_norm", 0.0, "max_grad_norm=0.0: it has to be a number, above 0."),
    ("ema_decay", 1.0, "ema_decay=1.0: it has to be a number, at least 0 and below 1."),
    ("adam_beta1", 1.0, "adam_beta1=1.0: "),
    ("mixed_precision", "half", "mixed_precision='half': it has to be text, one of no, fp16, bf16, fp8 or left out"),
    ("lr_scheduler", "cosin", "lr_scheduler='cosin': it has to be text, one of linear, cosine, cosine_with_restarts"),
    ("sharpen_target", 2, "sharpen_target=2: it has to be true or false"),
    ("width", 0, "width=0: "),
    ("depths", [2, 0], r"depths=\[2, 0\]: it has to be a list, of which each has to be a whole number, at least 1"),
    ("depths", [2, 1.5], r"depths=\[2, 1.5\]: "),
    ("hub_token", 1, r"hub_token=\(not shown\): it has to be text or left out"),
]


ODD = {"nan": ".nan", "inf": ".inf"}  # as YAML writes them


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_a_value_that_is_not_allowed_is_named(recipe: Path, name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExampleArguments(output_dir="runs", **{name: value})
    if name in ("hub_token", "sharpen_target") or value in (None, True) or isinstance(value, list):
        return  # the command line's parser reads these as something else
    recipe.write_text(f"{name}: {ODD.get(str(value), value)}\n")
    with pytest.raises(ValueError, match=message):
        parse("--config", str(recipe))
    if name in ("seed", "max_train_steps") and isinstance(value, float):
        return  # argparse says so
    with pytest.raises(ValueError, match=message):
        parse(f"--{name}={value}")


def test_a_value_of_the_recipe_that_is_overridden_need_not_be_right(recipe: Path) -> None:
    recipe.write_text("max_train_steps: -5\n")
    assert parse("--config", str(recipe), "--max_train_steps", "5").max_train_steps == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--config",), "argument --config: expected one argument"),
        (("--config=RECIPE",), "max_train_steps=-5: it has to be a whole number, at least 1."),
        (("--config", "missing.yaml"), "The recipe 'missing.yaml' cannot be read"),
        (("--train_batch_size", "0"), "train_batch_size=0: it has to be a whole number, at least 1."),
        (("--max_train_steps", "many"), "invalid int value: 'many'"),
        (("--sed", "1"), "unrecognized arguments: --sed 1"),
    ],
)
def test_wrong_options_end_a_trainer_in_one_line(
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    recipe.write_text("max_train_steps: -5\n")
    given = [word.replace("RECIPE", str(recipe)) for word in words]
    monkeypatch.setattr(sys, "argv", ["train.py", *OUTPUT, *given])
    with pytest.raises(SystemExit) as ended:
        parse_arguments(ExampleArguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("train.py: error: ") and message in error and error.count("\n") == 1


def test_a_trainer_ends_with_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(TRAINING / "train_autoencoder.py")
    monkeypatch.setattr(sys, "argv", [path, *OUTPUT, "--max_train_steps=-5"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(path, run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("train_autoencoder.py: error: max_train_steps=-5: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--photos_per_shard", "0"], "photos_per_shard=0: it has to be a whole number, at least 1"),
        (["--crop_size", "-3"], "crop_size=-3: it has to be"),
        (["--num_workers", "-1"], "num_workers=-1: it has to be"),
        (["--resize_mode", "resize"], "--resize_mode resize makes squares: give their side, --crop_size"),
        (["--tagger", "x", "--num_workers", "1"], "leave out --num_workers, and start several processes"),
        (["--tagger", "x", "--tags_file", "x"], "Tags or captions come from one of --tags_file, --prompts_dir and"),
        ([], "the following arguments are required: --output_dir"),
    ],
)
def test_preparing_shards_checks_its_options_as_a_trainer_does(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output_dir", "unused"] if options else []
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--train_data_dir", "unused", *output, *options])
    with pytest.raises(SystemExit) as exit:
        script("prepare").main()
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
