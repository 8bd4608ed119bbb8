"""XPSR computes with official weights what the official code computed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_sr.xpsr.convert import load_networks
from diffusers_sr.xpsr.pipeline import XPSRPipeline
from tests.parity import xpsr
from tests.parity.forward import main

DATA = Path(__file__).parent / "data"
VECTORS = [DATA / "xpsr", *(Path(path) for path in [os.environ.get("XPSR_PARITY_VECTORS")] if path)]
CASES = ("case_16x16", "case_16x24", "case_9x13_odd")
LOOPS = ("cfg5.5_16x16", "cfg4.5_16x24_scale0.8", "cfg5.5_16x16_purenoise", "tiled_24x32_tile16_ov4")


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
        for folder in VECTORS
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


@pytest.mark.parametrize("vectors", xpsr_files("A", CASES))
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


@pytest.mark.parametrize("vectors", xpsr_files("D", tuple(f"loop_{name}" for name in LOOPS)))
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


@pytest.mark.parametrize("vectors", xpsr_files("D", tuple(f"loop_{name}" for name in LOOPS[:3])))
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


@pytest.mark.parametrize("vectors", xpsr_files("D", tuple(f"loop_{name}" for name in LOOPS)))
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
    networks = load_networks("xpsr", vectors.parent / "unet", vectors.parent / "controlnet")
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
