"""The recipes of the stages, and the options of their trainers."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from diffusers_sr.training.arguments import TrainingArguments, parse_arguments

TRAINING = Path(__file__).parents[1] / "training"
STAGES = sorted(path.stem.removesuffix("_24gb") for path in (TRAINING / "recipes").glob("*_24gb.yaml"))

INPUTS = {"coser": {"cognitive_encoder", "references_file"}, "cassr": {"scedit", "references_dir"}}
"""Options of stages that an ablation does without, so that argparse does not require them."""


def trainer(stage: str) -> ModuleType:
    """Import the script that trains a stage."""
    spec = importlib.util.spec_from_file_location(f"train_{stage}", TRAINING / f"train_{stage}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module


def arguments_class(script: ModuleType) -> type[TrainingArguments]:
    """Find the dataclass of a training script's options."""
    (kind,) = (
        value
        for value in vars(script).values()
        if isinstance(value, type) and issubclass(value, TrainingArguments) and value.__module__ == script.__name__
    )
    return kind


def read_recipe(recipe: Path) -> tuple[str, Any]:
    """Read the stage that a recipe is named after, and its trainer's arguments with made-up folders."""
    stage = recipe.stem.rpartition("_")[0]
    kind = arguments_class(trainer(stage))
    required = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}
    made_up = (required | INPUTS.get(stage, set())) - yaml.safe_load(recipe.read_text()).keys()
    options = [word for name in sorted(made_up) for word in (f"--{name}", "unused")]
    return stage, parse_arguments(kind, ["--config", str(recipe), *options])
