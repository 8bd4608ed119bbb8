"""The last line of a run: where its result is, and what to do with it."""

from __future__ import annotations

import shlex


def try_it(output_dir: str) -> str:
    """Say that a pipeline is finished, and how to use it."""
    command = shlex.join(["diffusers-sr", "upscale", "photo.jpg", "--model", output_dir, "--output", "enlarged.png"])
    return f"The model is in {output_dir}. Try it: {command}"


def next_stage(output_dir: str, script: str, option: str) -> str:
    """Say that a stage is finished whose result is not used alone, and which stage takes it."""
    command = shlex.join([f"training/{script}.py", option, output_dir])
    return f"The result is in {output_dir}, a part of a model. Next comes: accelerate launch --quiet {command} ..."
