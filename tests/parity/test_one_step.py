"""One-step models and AddSR compute what their official codes computed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_sr.one_step.prediction import dial_passes, weighted_sum
from diffusers_sr.one_step.scheduler import OneStepScheduler
from diffusers_sr.seesr.four_steps import FourStepScheduler
from tests.parity.forward import main
from tests.parity.one_step_case import INPUTS, Case, picture, pictures
from tests.parity.one_step_tiles import tile_weights

DATA = Path(__file__).parent / "data"
VECTORS = os.environ.get("ONE_STEP_PARITY_VECTORS")
FILES = {
    "pisa": ["pisa_sr.pkl"],
    "osediff": ["osediff.pkl"],
    "gdpo": [],
    "omgsr": ["unet_lora_adapter", "vae_encoder_lora_adapter"],
    "hypir": ["HYPIR_sd2.pth"],
    "addsr": [],
}

needs_vectors = pytest.mark.skipif(
    VECTORS is None, reason="too large for the repository: name their folder in ONE_STEP_PARITY_VECTORS"
)


def case_files() -> Iterator[object]:
    for method in FILES:
        for path in sorted(Path(VECTORS).glob(f"{method}/A/case_*.safetensors")) if VECTORS else ():
            yield pytest.param(method, path, id=f"{method}-{path.stem}")


def make_weights(method: str, folder: Path) -> Path:
    """Link the base and the checkpoint's files into a folder."""
    assert VECTORS is not None
    vectors, weights = Path(VECTORS).resolve(), folder / "weights"
    weights.mkdir()
    for name in FILES[method]:
        (weights / name).symlink_to(vectors / method / "A" / name)
    (weights / "base").symlink_to(vectors / "base_A")
    if method == "addsr":
        (weights / "vae").symlink_to(vectors / "base_A" / "vae")
        for name in ("unet", "controlnet"):
            (weights / name).symlink_to(DATA / "seesr" / "A" / name)
    return weights


def run(method: str, case: Path, folder: Path, *options: str) -> dict[str, torch.Tensor]:
    """Run the script on the inputs alone, so that nothing else can be read."""
    inputs = folder / "inputs" / case.name
    inputs.parent.mkdir()
    save_file({name: tensor for name, tensor in load_file(case).items() if name in INPUTS}, inputs)
    inputs.with_name("cases.json").write_bytes(case.with_name("cases.json").read_bytes())
    main([method, str(make_weights(method, folder)), str(inputs), str(folder / "outputs.safetensors"), *options])
    return load_file(folder / "outputs.safetensors")


@pytest.mark.skipif(
    VECTORS is None, reason="too large for the repository: name their folder in ONE_STEP_PARITY_VECTORS"
)
@pytest.mark.parametrize(("method", "case"), list(case_files()))
def test_networks(method: str, case: Path, tmp_path: Path) -> None:
    outputs = run(method, case, tmp_path)
    expected = {name: tensor for name, tensor in load_file(case).items() if name not in INPUTS}
    assert expected.keys() <= outputs.keys()
    for name, tensor in expected.items():
        assert outputs[name].shape == tensor.shape, name
        difference = (outputs[name].double() - tensor.double()).abs()
        if tensor.dtype == torch.uint8:  # cut off twice, bytes at the border of two values fall on either side
            assert difference.max() <= 3, name
            assert (difference > 0).double().mean() <= 0.01, name
        else:
            assert difference.max() <= 5e-5 * max(1, float(tensor.abs().max())), name


@pytest.mark.skipif(
    VECTORS is None, reason="too large for the repository: name their folder in ONE_STEP_PARITY_VECTORS"
)
@pytest.mark.parametrize("method", ["pisa", "osediff"])
@pytest.mark.parametrize("case", ["plain", "tiled"])
def test_networks_in_float64(method: str, case: str, tmp_path: Path) -> None:
    folder = Path(str(VECTORS)) / method / "A"
    outputs = run(method, folder / f"case_{case}.safetensors", tmp_path, "--dtype", "float64")
    reference = load_file(folder / "ref_float64.safetensors")
    for name in ("latents", "model_pred", "denoised"):
        torch.testing.assert_close(outputs[name].double(), reference[f"{case}.{name}"], atol=1e-9, rtol=0)


@pytest.mark.skipif(
    VECTORS is None, reason="too large for the repository: name their folder in ONE_STEP_PARITY_VECTORS"
)
def test_dials_in_float64(tmp_path: Path) -> None:
    folder = Path(str(VECTORS)) / "pisa" / "A"
    outputs = run("pisa", folder / "case_dials.safetensors", tmp_path, "--dtype", "float64")
    reference = load_file(folder / "ref_float64.safetensors")
    for name in ("model_pred", "denoised"):
        torch.testing.assert_close(outputs[f"{name}.0.5_1"], reference[f"dial_0.5_1.{name}"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("dials", ["0.5_1", "0_1", "1.2_0.8", "1_0", "1_1"])
def test_dials_of_pisa(dials: str) -> None:
    vectors = load_file(DATA / "one_step" / "pisa.safetensors")
    stored = {2: vectors["unet_pix_and_sem"], 1: vectors["unet_pix_only"]}
    pixel, semantic = (float(dial) for dial in dials.split("_"))
    prediction = weighted_sum(dial_passes(pixel, semantic), lambda sets: stored[len(sets)])
    torch.testing.assert_close(prediction, vectors[f"model_pred.{dials}"], atol=1e-6, rtol=0)
    scheduler = OneStepScheduler(timestep=1, prediction="residual")
    restored = scheduler.step(prediction, scheduler.timesteps[0], vectors["latents"]).prev_sample
    torch.testing.assert_close(restored, vectors[f"denoised.{dials}"], atol=1e-6, rtol=0)


def test_step_of_osediff_in_float64() -> None:
    vectors = load_file(DATA / "one_step" / "osediff.safetensors")
    scheduler = OneStepScheduler(timestep=999, prediction="x0")
    restored = scheduler.step(vectors["model_pred"], scheduler.timesteps[0], vectors["latents"]).prev_sample
    torch.testing.assert_close(restored, vectors["denoised"], atol=1e-9, rtol=0)


def test_noise_and_step_of_gdpo() -> None:
    vectors = load_file(DATA / "one_step" / "gdpo.safetensors")
    scheduler = OneStepScheduler(timestep=100, noise_timestep=250, prediction="x0")
    noisy = scheduler.start(vectors["latents"], vectors["noise"])
    torch.testing.assert_close(noisy, vectors["noisy_latents"], atol=1e-7, rtol=0)
    restored = scheduler.step(vectors["model_pred"], scheduler.timesteps[0], noisy).prev_sample
    torch.testing.assert_close(restored, vectors["denoised"], atol=1e-6, rtol=0)


def test_four_steps_of_addsr() -> None:
    vectors = load_file(DATA / "one_step" / "addsr.safetensors")
    scheduler = FourStepScheduler()
    for index, timestep in enumerate([999, 749, 499, 249]):
        assert scheduler.timesteps[index] == timestep
        noise_pred, latents = vectors[f"noise_pred.{index}"], vectors[f"latents.{index}"]
        result = scheduler.step(noise_pred, timestep, latents, noise=vectors.get(f"renoise.{index}"))
        torch.testing.assert_close(result.pred_original_sample, vectors[f"denoised.{index}"], atol=1e-5, rtol=0)
        following = vectors.get(f"latents.{index + 1}", vectors["denoised.3"])
        torch.testing.assert_close(result.prev_sample, following, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("method", "side", "is_symmetric"), [("pisa", 12, True), ("osediff", 10, False)])
def test_weights_of_tiles(method: str, side: int, is_symmetric: bool) -> None:
    expected = load_file(DATA / "one_step" / f"{method}.safetensors")["tile_weights"]
    torch.testing.assert_close(tile_weights(side, is_symmetric), expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize(("method", "case"), [("pisa", "small"), ("osediff", "odd")])
def test_sizes_of_the_scripts(method: str, case: str) -> None:
    vectors = load_file(DATA / "one_step" / f"{method}.safetensors")
    made = picture(Case({"lr": vectors[f"{case}.lr"]}, {"process_size": 64}, {}))
    assert torch.equal(torch.from_numpy(made.copy()), vectors[f"{case}.input"])


def test_colours_of_the_scripts() -> None:
    vectors = load_file(DATA / "one_step" / "pisa.safetensors")
    source, output = vectors["small.input"], vectors["small.output"]
    decoded = (output.permute(2, 0, 1)[None].double() + 0.5) / 255 * 2 - 1  # the middle of what is cut off to it
    case = Case({"lr": vectors["small.lr"]}, {"process_size": 64}, {})
    made = pictures(decoded, source.numpy(), case, is_restored=True)
    assert torch.equal(made["output"], output)
    for name in ("output_adain", "final"):
        assert made[name].shape == vectors[f"small.{name}"].shape
        difference = (made[name].int() - vectors[f"small.{name}"].int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).double().mean() <= 0.005
