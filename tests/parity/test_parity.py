"""What this project computes with official weights is what the official code computed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_sr.tiling import gaussian_weights
from tests.parity.forward import main

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parent / "data"

SEESR_INPUTS = {
    "sample",
    "timestep",
    "encoder_hidden_states",
    "image_encoder_hidden_states",
    "controlnet_cond",
    "conditioning_scale",
    "image_uint8",
    "initial_noise",
    "image",
    "prompt_embeds",
    "negative_prompt_embeds",
    "lr_latent_unscaled",
}
# What the vectors hold beside inputs and outputs: other precisions, settings and intermediate values.
NOT_COMPUTED = {
    "unet_out_fp64",
    "step_noise",
    "class_threshold",
    "gaussian_weights_16_fp64",
    "gaussian_weights_96_fp64",
}

SEESR_VECTORS = [DATA / "seesr", *(Path(path) for path in [os.environ.get("SEESR_PARITY_VECTORS")] if path)]
SEESR_SETS = [
    pytest.param(
        folder / weights,
        folder / vectors,
        tolerance,
        id=f"{folder.name}-{vectors}",
        marks=pytest.mark.skipif(
            not (folder / vectors).is_dir(),
            reason=f"set {vectors} is too large for the repository: name its folder in SEESR_PARITY_VECTORS",
        ),
    )
    for folder in SEESR_VECTORS
    for weights, vectors, tolerance in (("A", "A", 2e-5), ("C", "C", 2e-5), ("A", "D", 1e-4))
]


def last(name: str) -> str:
    return name.rpartition(".")[2]


def split_vectors(folder: Path, inputs: Path) -> dict[str, torch.Tensor]:
    """Write the inputs alone, so that nothing else can be read, and give the expected outputs."""
    vectors = load_file(folder / "io.safetensors")
    save_file({name: tensor for name, tensor in vectors.items() if last(name) in SEESR_INPUTS}, inputs)
    return {name: tensor for name, tensor in vectors.items() if last(name) not in SEESR_INPUTS | NOT_COMPUTED}


@pytest.mark.parametrize(("weights", "vectors", "tolerance"), SEESR_SETS)
def test_seesr(weights: Path, vectors: Path, tolerance: float, tmp_path: Path) -> None:
    expected = split_vectors(vectors, tmp_path / "inputs.safetensors")
    arguments = ["seesr", str(weights), str(tmp_path / "inputs.safetensors"), str(tmp_path / "outputs.safetensors")]
    if (vectors / "cases.json").is_file():
        arguments += ["--cases", str(vectors / "cases.json")]
    main(arguments)
    outputs = load_file(tmp_path / "outputs.safetensors")
    assert expected.keys() <= outputs.keys()
    for name, tensor in expected.items():
        limit = 0.0 if last(name) in ("timesteps", "dape_targets", "ram_targets") else tolerance
        torch.testing.assert_close(
            outputs[name], tensor, atol=limit, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_seesr_in_float64_from_the_command_line(tmp_path: Path) -> None:
    vectors = DATA / "seesr" / "A"
    split_vectors(vectors, tmp_path / "inputs.safetensors")
    command = [sys.executable, "tests/parity/forward.py", "seesr", str(vectors), str(tmp_path / "inputs.safetensors")]
    subprocess.run([*command, str(tmp_path / "outputs.safetensors"), "--dtype", "float64"], cwd=ROOT, check=True)
    output = load_file(tmp_path / "outputs.safetensors")["odd.unet_out"]
    assert output.dtype == torch.float64
    expected = load_file(vectors / "io.safetensors")["odd.unet_out_fp64"].double()
    torch.testing.assert_close(output, expected, atol=1e-7, rtol=0)


def test_seesr_tile_weights() -> None:
    expected = load_file(DATA / "seesr" / "D" / "io.safetensors")["gaussian_weights_16_fp64"]
    torch.testing.assert_close(gaussian_weights(16, 16).double(), expected, atol=0, rtol=1e-6)
