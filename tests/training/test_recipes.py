"""Recipes and accelerate's configurations: that trainers and accelerate take them, and what the recipes promise."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from torch import nn

from benchmarks.recipes import STAGES, arguments_class, read_recipe, trainer
from benchmarks.storages import cuda_lists
from benchmarks.training_memory import Computed, step_memory
from diffusers_sr.training.arguments import TrainingArguments, parse_arguments
from diffusers_sr.training.engine import trainable_parameters
from diffusers_sr.training.xpsr import TrainableXPSR
from tests.training.runs import TRAINING, fit
from tests.training.stages import Stage, build

RECIPES = TRAINING / "recipes"
# What a smaller GPU needs, and the precision of a larger one.
MAY_DIFFER = {
    "train_batch_size",
    "gradient_accumulation_steps",
    "mixed_precision",
    "gradient_checkpointing",
    "use_8bit_adam",
}


def samples_per_step(recipe: Path, arguments: TrainingArguments) -> int:
    (processes,) = re.findall(r"^# Processes: (\d+)$", recipe.read_text(), re.MULTILINE)
    return int(processes) * arguments.train_batch_size * arguments.gradient_accumulation_steps


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_its_trainer_takes_every_option_of_a_recipe(recipe: Path) -> None:
    _, arguments = read_recipe(recipe)
    types = get_type_hints(type(arguments))
    for name, value in yaml.safe_load(recipe.read_text()).items():
        assert getattr(arguments, name) == value
        kind = types[name]
        assert isinstance(value, (list, get_args(kind) or kind)), f"{name}: {value!r} is no {kind}"


@pytest.mark.parametrize("size", ["paper", "24gb"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_value_names_its_source(stage: str, size: str) -> None:
    lines = (RECIPES / f"{stage}_{size}.yaml").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#") and not re.search(r"\S  # \S", line)] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_24_gb_recipe_trains_as_the_paper_does(stage: str) -> None:
    paths = {size: RECIPES / f"{stage}_{size}.yaml" for size in ("paper", "24gb")}
    recipes = {size: read_recipe(path)[1] for size, path in paths.items()}
    assert samples_per_step(paths["24gb"], recipes["24gb"]) == samples_per_step(paths["paper"], recipes["paper"])
    paper, small = ({k: v for k, v in vars(each).items() if k not in MAY_DIFFER} for each in recipes.values())
    assert small == paper
    assert recipes["24gb"].mixed_precision == "bf16"
    assert recipes["24gb"].gradient_checkpointing and recipes["24gb"].use_8bit_adam


def test_the_trainers_take_the_commands_of_the_readme() -> None:
    """There are recipes of both sizes, or it is the package's small model; no required option is missing."""
    text = (TRAINING / "README.md").read_text().replace("\\\n", " ")
    stages = []
    for line in re.findall(r"^accelerate launch --quiet training/train_.*$", text, re.MULTILINE):
        _, _, _, path, *argv = shlex.split(line)
        stage = Path(path).stem.removeprefix("train_")
        if f"training/recipes/{stage}_small.yaml" in argv:
            small = [str(RECIPES / f"{stage}_small.yaml") if word.endswith(".yaml") else word for word in argv]
            parse_arguments(arguments_class(trainer(stage)), small)
            continue
        assert f"training/recipes/{stage}_24gb.yaml" in argv
        for size in ("24gb", "paper"):
            config = [str(RECIPES / f"{stage}_{size}.yaml") if word.endswith(".yaml") else word for word in argv]
            parse_arguments(arguments_class(trainer(stage)), config)
        stages.append(stage)
    assert sorted(stages) == sorted(STAGES)


def test_the_readme_shows_the_memory_of_the_recipes_as_they_are() -> None:
    text = (TRAINING / "README.md").read_text()
    shown = {stage: int(batch) for stage, batch in re.findall(r"^\| (\w+)_24gb \| (\d+) \|", text, re.MULTILINE)}
    recipes = {stage: read_recipe(RECIPES / f"{stage}_24gb.yaml")[1] for stage in STAGES}
    assert shown == {stage: arguments.train_batch_size for stage, arguments in recipes.items()}


def test_accelerate_reads_its_configuration() -> None:
    config: Any = load_config_from_file(str(TRAINING / "accelerate" / "ddp.yaml"))
    assert config.distributed_type == "MULTI_GPU"
    assert [path.name for path in sorted((TRAINING / "accelerate").iterdir())] == ["ddp.yaml", "slurm.sh"]


def test_what_shards_models_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration ships untested."""
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match="configured for FSDP, which shards models"):
        fit(tmp_path)


def measured_peak(stage: Stage, arguments: TrainingArguments) -> int:
    """Count the bytes that a step on real tensors asks the CPU's allocator for, with those in use before."""
    module, batch = stage.module.train(), stage.batch()
    parameters = [*trainable_parameters(module).values()]
    optimizer = torch.optim.AdamW(parameters, foreach=True)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    state = [tensor for tensors in optimizer.state.values() for tensor in tensors.values()]
    pictures = [batch["target"], batch["reference"]]
    current = sum(each.nbytes for each in [*module.parameters(), *module.buffers(), *state, *pictures])
    with (
        cuda_lists(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        for _ in range(arguments.gradient_accumulation_steps):
            with torch.autocast("cpu", torch.bfloat16):
                loss = torch.stack([*module(batch).values()]).sum()
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, arguments.max_grad_norm)
        optimizer.step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = current
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


@pytest.mark.parametrize(("name", "gradient_checkpointing"), [("scedit", False), ("xpsr", True)])
def test_computed_memory_is_what_a_step_on_real_tensors_takes(name: str, gradient_checkpointing: bool) -> None:
    arguments = TrainingArguments(output_dir="unused", mixed_precision="bf16", gradient_accumulation_steps=2)
    peaks = []
    for is_computed in (False, True):
        stage = build(name)
        if isinstance(stage.denoiser, TrainableXPSR):
            stage.denoiser.clean_ratio = 0.0  # without data nothing can be said of how clean a crop is
        if gradient_checkpointing:
            stage.denoiser.enable_gradient_checkpointing()
        if is_computed:
            place = Computed()
            peaks.append(step_memory(place, place.place(stage.module.to("meta")), stage.batch(), arguments).peak)
        else:
            peaks.append(measured_peak(stage, arguments))
    measured, computed = peaks
    # The rest is what single operations use inside.
    assert 0.9 * measured < computed <= measured
