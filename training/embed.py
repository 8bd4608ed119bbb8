"""Put trained small models into the package, in float16.

    python training/embed.py --one_step runs/one_step
    python training/embed.py --base runs/base --seesr runs/seesr_adversarial --coser runs/coser_adversarial

`one-step-small` is a whole pipeline. `base-small` is a Stable Diffusion pipeline folder; the others hold what a method
adds to it, and the values that its pipeline's `__call__` uses by default with this model. Models that are not given
stay unchanged.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline

from diffusers_sr.controlled import ControlledPipeline
from diffusers_sr.hub import BASE, BASE_COMPONENTS, METHODS, MODELS, pipeline_class, small_model
from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.training.publish import trained_models
from diffusers_sr.training.schedules import first_timesteps
from diffusers_sr.training.script import run_script

# The wavelet colour fix keeps colours locally.
SHARED_CALL_DEFAULTS: dict[str, Any] = {
    "tile_size": 1024,
    "tile_overlap": 128,
    "process_size": 64,
    "color_fix": "wavelet",
}

# There is no semantic LoRA.
ONE_STEP_CALL_DEFAULTS: dict[str, Any] = {**SHARED_CALL_DEFAULTS, "semantic_scale": None}

# One step is what the models were fine-tuned for. The small text encoder adds little, so there is no guidance.
CALL_DEFAULTS: dict[str, Any] = {**SHARED_CALL_DEFAULTS, "num_inference_steps": 1, "guidance_scale": 1.0}


TRAINED = [method for method in METHODS if issubclass(pipeline_class(method), ControlledPipeline)]
"""The methods whose last training stage leaves a ControlNet and an adapter."""


def embed(method: str, trained: Path, changes: Mapping[str, Any]) -> None:
    """Write the models of one method, from the output folder of its last training stage.

    Args:
        method: one of `TRAINED`.
        trained: holds a folder for each model of the method.
        changes: changes to the defaults of a call, which are otherwise those of the model that is replaced, or
            `CALL_DEFAULTS` if there is no such model.
    """
    kind = pipeline_class(method)
    folder = MODELS / small_model(method)
    index = folder / DiffusionPipeline.config_name
    call_defaults = json.loads(index.read_text())["call_defaults"] if index.is_file() else CALL_DEFAULTS
    parts = {
        name: model_class.from_pretrained(trained / name, dtype=torch.float16)
        for name, model_class in trained_models(trained, kind).items()
    }
    base: dict[str, Any] = dict.fromkeys(BASE_COMPONENTS)
    scheduler = DDIMScheduler.from_pretrained(MODELS / BASE, subfolder="scheduler")
    arguments = trained / "training_arguments.json"
    if arguments.is_file() and (timesteps := json.loads(arguments.read_text()).get("num_train_timesteps")) is not None:
        scheduler = first_timesteps(scheduler, timesteps)
    pipeline = kind(
        **base,
        **parts,
        scheduler=scheduler,
        call_defaults={**call_defaults, **changes},
    )
    # diffusers' own method, which writes no code: the package itself holds the classes.
    DiffusionPipeline.save_pretrained(pipeline, folder)


def embed_one_step(trained: Path, changes: Mapping[str, Any]) -> None:
    """Write the pipeline that `train_one_step.py` left in a folder. See `embed`."""
    pipeline = OneStepPipeline.from_pretrained(trained, dtype=torch.float16)
    defaults = {**pipeline.config.call_defaults, **ONE_STEP_CALL_DEFAULTS, **changes}
    pipeline.register_to_config(call_defaults=defaults, origin=None)
    DiffusionPipeline.save_pretrained(pipeline, MODELS / small_model("one_step"))


def named_value(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, the value as YAML."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE, such as tile_size=256")
    return name, yaml.safe_load(value) if value else ""


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="output folder of train_base.py")
    parser.add_argument("--one_step", type=Path, help="output folder of train_one_step.py")
    for method in TRAINED:
        parser.add_argument(f"--{method}", type=Path, help=f"output folder of {method}'s last training stage")
    parser.add_argument(
        "--call",
        type=named_value,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="call defaults of the given models, where they differ from those of the models they replace",
    )
    options = parser.parse_args(argv)

    if options.base is not None:
        base = StableDiffusionPipeline.from_pretrained(options.base, dtype=torch.float16, safety_checker=None)
        base.save_pretrained(MODELS / BASE)
    if options.one_step is not None:
        embed_one_step(options.one_step, dict(options.call))
    for method in TRAINED:
        if (trained := getattr(options, method)) is not None:
            embed(method, trained, dict(options.call))
    for path in MODELS.rglob("*.json"):
        if "_name_or_path" in (config := json.loads(path.read_text())):  # a folder on the machine this ran on
            del config["_name_or_path"]
            path.write_text(json.dumps(config, indent=2) + "\n")
    for folder in sorted(MODELS.iterdir()):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder.name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
