"""What this project computes with official weights is what the official code computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_sr.image.tiling import gaussian_weights
from diffusers_sr.xpsr.pipeline import XPSRPipeline
from tests.parity import coser, xpsr
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


XPSR_VECTORS = [DATA / "xpsr", *(Path(path) for path in [os.environ.get("XPSR_PARITY_VECTORS")] if path)]
XPSR_CASES = ("case_16x16", "case_16x24", "case_9x13_odd")
XPSR_LOOPS = ("cfg5.5_16x16", "cfg4.5_16x24_scale0.8", "cfg5.5_16x16_purenoise", "tiled_24x32_tile16_ov4")


def xpsr_files(kind: str, names: tuple[str, ...]) -> list[object]:
    return [
        pytest.param(
            folder / kind / f"{name}.safetensors",
            id=f"{folder.name}-{name}",
            marks=pytest.mark.skipif(
                not (folder / kind / f"{name}.safetensors").is_file(),
                reason="too large for the repository: name a folder with A and D in XPSR_PARITY_VECTORS",
            ),
        )
        for folder in XPSR_VECTORS
        for name in names
    ]


def run_xpsr(vectors: Path, folder: Path, *options: str) -> dict[str, torch.Tensor]:
    """Run on the inputs alone, so that nothing else can be read."""
    inputs = folder / vectors.name
    given = ("in.", "emb.", "noise.")
    save_file({name: tensor for name, tensor in load_file(vectors).items() if name.startswith(given)}, inputs)
    if vectors.with_suffix(".json").is_file():
        options = (*options, "--cases", str(vectors.with_suffix(".json")))
    main(["xpsr", str(vectors.parent), str(inputs), str(folder / "outputs.safetensors"), *options])
    return load_file(folder / "outputs.safetensors")


def relative(output: torch.Tensor, expected: torch.Tensor) -> float:
    return ((output.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("vectors", xpsr_files("A", XPSR_CASES))
def test_xpsr(vectors: Path, tmp_path: Path) -> None:
    outputs, stored = run_xpsr(vectors, tmp_path, "--dtype", "float64"), load_file(vectors)
    names = {name for name in stored if name.startswith(("out.", "mid."))}
    assert names <= outputs.keys()
    for name in names:  # in float32
        assert relative(outputs[name], stored[name]) < 2e-4, name
    expected = load_file(vectors.with_name("ref_float64.safetensors"))
    down = [name for name in outputs if name.startswith("out.cn.down.")]
    for reference, name in (
        ("unet", "out.unet"),
        ("mid", "out.cn.mid"),
        ("down0", "out.cn.down.0"),
        (f"down{len(down) - 1}", f"out.cn.down.{len(down) - 1}"),
    ):
        torch.testing.assert_close(outputs[name], expected[f"{vectors.stem}.{reference}"], atol=1e-10, rtol=0)


@pytest.mark.parametrize("vectors", xpsr_files("D", tuple(f"loop_{name}" for name in XPSR_LOOPS)))
def test_xpsr_loops(vectors: Path, tmp_path: Path) -> None:
    outputs, expected = run_xpsr(vectors, tmp_path), load_file(vectors)
    assert outputs["mid.timesteps"].tolist() == expected["mid.timesteps"].tolist()
    if "mid.init_latents" in expected:
        assert relative(outputs["mid.init_latents"], expected["mid.init_latents"]) < 1e-6
    # These networks multiply a difference in the last bit by a thousand and more at every step.
    assert relative(outputs["mid.unet_out_call.0"], expected["mid.unet_out_call.0"]) < 1e-3
    assert relative(outputs["mid.latents_after_step.0"], expected["mid.latents_after_step.0"]) < 1e-3
    if not torch.equal(outputs["mid.unet_out_call.0"], expected["mid.unet_out_call.0"]):
        pytest.skip("this processor does not sum in the order of the one that the vectors were computed on")
    for name, tensor in expected.items():
        if name.startswith(("out.", "mid.")) and name in outputs:
            assert relative(outputs[name], tensor) < 1e-4, name


@pytest.mark.parametrize("vectors", xpsr_files("D", tuple(f"loop_{name}" for name in XPSR_LOOPS[:3])))
def test_xpsr_start_and_steps(vectors: Path) -> None:
    """The pipeline's own start and steps, with what the official UNet returned in place of what this one does."""
    stored, options, pipeline = xpsr_loop(vectors)
    steps = range(options["num_inference_steps"])
    returned = iter([stored[f"mid.unet_out_call.{step}"] for step in steps])
    seen: list[torch.Tensor] = []

    def replace(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: object) -> tuple[torch.Tensor]:
        seen.append(args[0][:1])
        return (next(returned),)

    pipeline.unet.register_forward_hook(replace)
    if options["init_latent_with_noise"]:
        start = {"start_point": "noise", "latents": stored["noise.pipe.0"]}
    else:
        first, second = int(stored["mid.timesteps"][0]), options["added_noise_level"]
        kept, again = pipeline.scheduler.alphas_cumprod[[first, second]]
        noise = (again * (1 - kept)).sqrt() * stored["noise.pipe.0"] + (1 - again).sqrt() * stored["noise.pipe.1"]
        start = {"latents": noise / (1 - kept * again).sqrt(), "added_noise_level": second}
    latents = xpsr_latents(pipeline, stored, options, **start)
    assert relative(seen[0], stored["mid.init_latents"]) < 1e-6
    for step in steps:
        assert relative(latents[step], stored[f"mid.latents_after_step.{step}"]) < 1e-6


@pytest.mark.parametrize("vectors", xpsr_files("D", tuple(f"loop_{name}" for name in XPSR_LOOPS)))
def test_xpsr_first_step(vectors: Path) -> None:
    """The pipeline's own order of everything, also of its tiles, from the official start."""
    stored, options, pipeline = xpsr_loop(vectors)
    with torch.no_grad():
        start = xpsr.start_outputs(pipeline.vae, xpsr.load_scheduler(vectors.parent, options), stored, options)
    latents = xpsr_latents(pipeline, stored, options, start_point="noise", latents=start["mid.init_latents"])
    assert relative(latents[0], stored["mid.latents_after_step.0"]) < 1e-3


def xpsr_loop(vectors: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], XPSRPipeline]:
    stored = load_file(vectors)
    options = json.loads(vectors.with_suffix(".json").read_text(encoding="utf-8"))
    networks = xpsr.load_networks("xpsr", vectors.parent / "unet", vectors.parent / "controlnet")
    pipeline = XPSRPipeline(
        vae=xpsr.load_vae(vectors.parent, torch.float32),
        text_encoder=None,
        tokenizer=None,
        unet=networks.unet,
        controlnet=networks.controlnet,
        adapter=networks.adapter,
        scheduler=xpsr.load_scheduler(vectors.parent, options),
    )
    pipeline.set_progress_bar_config(disable=True)
    return stored, options, pipeline


def xpsr_latents(
    pipeline: XPSRPipeline, stored: dict[str, torch.Tensor], options: dict[str, Any], **start: Any
) -> list[torch.Tensor]:
    """The latents after each step of a whole call of the pipeline, with the stored noise."""
    latents: list[torch.Tensor] = []

    def keep(_: XPSRPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        latents.append(tensors["latents"])
        return tensors

    negative, positive = stored["emb.prompt_neg_pos"].split(1)
    negative_low_level, low_level = stored["emb.lowlevel_neg_pos"].split(1)
    draws = [] if start.get("start_point") == "noise" else [stored["noise.vae.0"]]
    draws += [stored[f"noise.step.{step}"] for step in range(options["num_inference_steps"])]
    with xpsr.replayed(draws):
        pipeline(
            stored["in.image_01"],
            upscale=1,
            process_size=0,
            num_inference_steps=options["num_inference_steps"],
            guidance_scale=options["guidance_scale"],
            controlnet_conditioning_scale=options["conditioning_scale"],
            tile_size=options["latent_tiled_size"] * pipeline.vae_scale_factor,
            tile_overlap=options["latent_tiled_overlap"] * pipeline.vae_scale_factor,
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            low_level_prompt_embeds=low_level,
            negative_low_level_prompt_embeds=negative_low_level,
            output_type="latent",
            callback_on_step_end=keep,
            **start,
        )
    return latents
