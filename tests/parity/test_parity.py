"""SeeSR, CoSeR and CasSR compute with official weights what the official code computed."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_sr.image.tiling import gaussian_weights
from tests import programs
from tests.parity import coser
from tests.parity.arrays import WEIGHT, read_arrays
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
# Besides inputs and outputs the vectors hold other precisions, settings and intermediate values.
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
        torch.testing.assert_close(outputs[name], tensor, atol=limit, rtol=0, msg=partial("{}: {}".format, name))


def test_seesr_in_float64_from_the_command_line(tmp_path: Path) -> None:
    vectors = DATA / "seesr" / "A"
    split_vectors(vectors, tmp_path / "inputs.safetensors")
    files = (tmp_path / "inputs.safetensors", tmp_path / "outputs.safetensors")
    done = programs.run(ROOT / "tests" / "parity" / "forward.py", "seesr", vectors, *files, "--dtype", "float64")
    assert done.returncode == 0, done.stderr
    output = load_file(tmp_path / "outputs.safetensors")["odd.unet_out"]
    assert output.dtype == torch.float64
    expected = load_file(vectors / "io.safetensors")["odd.unet_out_fp64"].double()
    torch.testing.assert_close(output, expected, atol=1e-7, rtol=0)


def test_seesr_tile_weights() -> None:
    expected = load_file(DATA / "seesr" / "D" / "io.safetensors")["gaussian_weights_16_fp64"]
    torch.testing.assert_close(gaussian_weights(16, 16).double(), expected, atol=0, rtol=1e-6)


COSER_INPUTS = {name for names in coser.ALL_INPUTS for name in names} | {f"skip_{index}" for index in range(6)}
COSER_VECTORS = [DATA / "coser", *(Path(path) for path in [os.environ.get("COSER_PARITY_VECTORS")] if path)]
COSER_FILES = [
    pytest.param(
        folder / file,
        id=f"{folder.name}-{file}",
        marks=pytest.mark.skipif(
            not (folder / file).is_file(),
            reason="the networks are too large for the repository: name a folder with A in COSER_PARITY_VECTORS",
        ),
    )
    for folder in COSER_VECTORS
    for file in (
        "A/inputs.npz",
        "O/onehot.npz",
        "O/spatial_transformer_dub0.npz",
        "O/spatial_transformer_dub1.npz",
        "Q/cog_adapter.npz",
        "Q/srresnet.npz",
        "F/cfw_fuse.npz",
        "S/csc_tuners.npz",
    )
]


def write_coser(vectors: Path, folder: Path, *, weights: bool = True, inputs: bool = True, name: str = "") -> Path:
    """Write weights, inputs or both of a file, and no expected output."""
    arrays = {
        key: array
        for key, array in np.load(vectors).items()
        if (weights and key.startswith(WEIGHT)) or (inputs and key in COSER_INPUTS)
    }
    folder.mkdir(exist_ok=True)
    np.savez(folder / (name or vectors.name), **arrays)
    return folder / (name or vectors.name)


def run_coser(
    weights: Path, inputs: Path, output: Path, *options: str, method: str = "coser"
) -> dict[str, torch.Tensor]:
    main([method, str(weights), str(inputs), str(output), *options])
    return load_file(output)


def check_coser(outputs: dict[str, torch.Tensor], vectors: Path, tolerance: float = 1e-5) -> None:
    is_apart = vectors.name == "inputs.npz"
    expected = read_arrays(vectors.with_name("outputs.npz") if is_apart else vectors)
    scores = expected.get("sim")
    names = {name for name in expected if not name.startswith(WEIGHT)} - (set() if is_apart else COSER_INPUTS)
    assert outputs.keys() == names
    for name in names:
        output, tensor = outputs[name], expected[name]
        if name == "sim_argmax":  # of equal scores either
            assert scores is not None
            output, tensor = (scores.gather(-1, index[..., None]) for index in (output, tensor))
        assert output.shape == tensor.shape, name
        assert (output - tensor).norm() <= tolerance * tensor.norm(), name


@pytest.mark.parametrize("vectors", COSER_FILES)
def test_coser(vectors: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    inputs = write_coser(vectors, folder)
    for path in (*vectors.parent.glob("config.json"), *vectors.parent.glob("*_state_dict.npz")):
        (folder / path.name).symlink_to(path.resolve())
    check_coser(run_coser(folder, inputs, tmp_path / "outputs.safetensors"), vectors)


@pytest.mark.parametrize("name", ["onehot", "spatial_transformer_dub0", "spatial_transformer_dub1"])
def test_coser_with_weights_among_others(name: str, tmp_path: Path) -> None:
    folder, weights = DATA / "coser" / "O", tmp_path / "weights"
    for path in folder.glob("*.npz"):
        write_coser(path, weights, inputs=False)
    (weights / "config.json").write_bytes((folder / "config.json").read_bytes())
    inputs = write_coser(folder / f"{name}.npz", tmp_path / "inputs", weights=False, name="given.npz")
    check_coser(run_coser(weights, inputs, tmp_path / "outputs.safetensors"), folder / f"{name}.npz")


def test_coser_does_not_guess_which_weights(tmp_path: Path) -> None:
    vectors, weights = DATA / "coser" / "Q" / "srresnet.npz", tmp_path / "weights"
    inputs = write_coser(vectors, tmp_path / "inputs", weights=False)
    for name in ("first.npz", "second.npz"):
        write_coser(vectors, weights, inputs=False, name=name)
    with pytest.raises(ValueError, match=r"\['first.npz', 'second.npz'\].*name INPUTS like"):
        run_coser(weights, inputs, tmp_path / "outputs.safetensors")
    write_coser(vectors, weights, inputs=False)
    check_coser(run_coser(weights, inputs, tmp_path / "outputs.safetensors"), vectors)


def test_coser_with_a_folder_of_inputs_in_float64(tmp_path: Path) -> None:
    folder = DATA / "coser" / "Q"
    for path in folder.glob("*.npz"):
        write_coser(path, tmp_path / "vectors")
    outputs = run_coser(
        tmp_path / "vectors", tmp_path / "vectors", tmp_path / "outputs.safetensors", "--dtype", "float64"
    )
    for file in ("cog_adapter", "srresnet"):
        prefix = f"{file}."
        own = {name.removeprefix(prefix): tensor for name, tensor in outputs.items() if name.startswith(prefix)}
        assert own["out"].dtype == torch.float64
        check_coser(own, folder / f"{file}.npz")
    assert len(outputs) == 4


def test_coser_has_the_heads_of_its_configuration(tmp_path: Path) -> None:
    vectors = DATA / "coser" / "Q" / "cog_adapter.npz"
    inputs = write_coser(vectors, tmp_path)
    (tmp_path / "config.json").write_text('{"heads": 8}', encoding="utf-8")
    other = run_coser(tmp_path, inputs, tmp_path / "outputs.safetensors")["out"]
    assert (other - read_arrays(vectors)["out"]).norm() > 1e-2 * other.norm()


def test_coser_says_what_it_needs(tmp_path: Path) -> None:
    vectors = DATA / "coser" / "O" / "onehot.npz"
    inputs = write_coser(vectors, tmp_path / "inputs")
    with pytest.raises(ValueError, match=r"heads.*config.json"):
        run_coser(tmp_path, inputs, tmp_path / "outputs.safetensors")
    (tmp_path / "config.json").write_bytes(vectors.with_name("config.json").read_bytes())
    check_coser(run_coser(tmp_path, inputs, tmp_path / "outputs.safetensors"), vectors)
    np.savez(tmp_path / "other.npz", x=np.zeros(1))
    with pytest.raises(ValueError, match="x, context, grad_w"):
        run_coser(tmp_path, tmp_path / "other.npz", tmp_path / "outputs.safetensors")


@pytest.mark.parametrize("method", ["cassr", "coser"])
def test_cassr(method: str, tmp_path: Path) -> None:
    vectors = DATA / "coser" / "S" / "csc_tuners.npz"
    inputs = write_coser(vectors, tmp_path / "vectors")
    (tmp_path / "vectors" / "config.json").write_bytes(vectors.with_name("config.json").read_bytes())
    outputs = run_coser(tmp_path / "vectors", inputs, tmp_path / "outputs.safetensors", method=method)
    assert len(outputs) == 13
    check_coser(outputs, vectors, tolerance=1e-6)


def test_cassr_has_the_scale_of_its_configuration(tmp_path: Path) -> None:
    vectors = DATA / "coser" / "S" / "csc_tuners.npz"
    config = json.loads(vectors.with_name("config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "control_scale": 1.6}), encoding="utf-8")
    inputs = write_coser(vectors, tmp_path)
    edited = run_coser(tmp_path, inputs, tmp_path / "outputs.safetensors", method="cassr")["skip_new_4"]
    given = read_arrays(vectors)
    twice = 2 * (given["skip_new_4"] - given["skip_4"]) + given["skip_4"]
    torch.testing.assert_close(edited, twice, atol=1e-5, rtol=1e-5)
