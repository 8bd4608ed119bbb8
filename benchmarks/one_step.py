"""The cost of a one-step model: PiSA-SR's call, compared with bare calls of its models and with SeeSR's 50 steps.

    OMP_WAIT_POLICY=passive python benchmarks/one_step.py [--steps 50] [--size tiny]
    python benchmarks/one_step.py --device cuda --dtype bfloat16 --compile

A photo of 128 × 128 pixels is enlarged to 512 × 512, with random weights in Stable Diffusion 2.1's shapes. First come
PiSA-SR's calls, by turns with bare ones: `vae.encode`, `unet` and `vae.decode` on tensors that are already there, the
least that a one-step model can take. What the pipeline takes besides is its own overhead: it reads, enlarges and
checks the photo, checks the result of every stage, matches the colours and makes a picture. This is done with the two
LoRA sets as they are loaded, then with fused ones; the bare calls are also done on the stock UNet, without LoRA. Then
SeeSR is built on the same UNet and VAE, and is called as its users call it: with tagger, text encoder, guidance,
ControlNet and adapter. `--steps 0` leaves it out, and from fewer steps than 50 the time of 50 is estimated.

On two CPU cores in float32 PiSA-SR's part takes about ten minutes, and SeeSR's 50 steps about eighteen. Peak
memory is that of the process (CPU), or what is allocated (CUDA): the weights and what the call needs. The CPU part
needed 11 GB.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from diffusers.utils import logging
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script, too, it finds its neighbours

from benchmarks.full_size import REPRESENTATION_DIM, TEXT_ENCODERS, VAE, ram
from benchmarks.seesr_step import DTYPES, SIZES, measure, memory
from diffusers_sr.one_step.lora import LoraSets
from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.one_step.prediction import PIXEL, SEMANTIC
from diffusers_sr.one_step.scheduler import OneStepScheduler
from diffusers_sr.one_step.stored_prompt import StoredPrompt
from diffusers_sr.seesr.adapter import SeeSRAdapter
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from tests.components import tiny_text_encoder, tiny_tokenizer, tiny_vae
from tests.one_step.official_files import adapted, lora
from tests.seesr.components import REPRESENTATION_DIM as TINY_REPRESENTATION_DIM
from tests.seesr.components import tiny_tagger

RANK, ALPHA, TEXT_TOKENS, OFFICIAL_STEPS = 4, 8, 77, 50
SCHEDULE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class Place:
    """Where models are, and in which type: new ones are made there with random weights."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype

    def make(self, build: Callable[[], nn.Module]) -> Any:
        """Build a model without its initialisation, which takes longer than random weights of the right scale."""
        with init_empty_weights():
            model = build().eval().requires_grad_(False)
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                weight = torch.empty(parameter.shape, dtype=self.dtype, device=self.device)
                if parameter.ndim > 1:
                    weight.normal_(std=parameter[0].numel() ** -0.5)
                else:
                    weight.fill_(1 if name == "weight" else 0)  # of a normalisation, or a bias
                module.register_parameter(name, nn.Parameter(weight, requires_grad=False))
        return model.to(self.device, self.dtype)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, device=self.device, dtype=self.dtype)


def pisa(size: str, place: Place) -> OneStepPipeline:
    """Make PiSA-SR with random weights: two LoRA sets on a stock UNet, and a stored prompt."""
    unet: UNet2DConditionModel = place.make(lambda: UNet2DConditionModel(**SIZES[size]))
    names = adapted(unet)
    sets = LoraSets.from_state_dicts({name: (lora(unet, names, RANK), ALPHA) for name in (PIXEL, SEMANTIC)})
    for parameter in sets.parameters():
        parameter.data.mul_(0.1)
    pipeline = OneStepPipeline(
        vae=place.make(lambda: AutoencoderKL(**VAE)) if size == "sd2" else tiny_vae().to(place.device, place.dtype),
        unet=unet,
        scheduler=OneStepScheduler(),
        lora=sets.to(place.device, place.dtype),
        stored_prompt=place.make(lambda: StoredPrompt(TEXT_TOKENS, unet.config.cross_attention_dim)),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seesr(size: str, place: Place, base: OneStepPipeline) -> SeeSRPipeline:
    """Make SeeSR with random weights on the UNet and the VAE of PiSA-SR, whose LoRA sets are taken off."""
    assert base.lora is not None
    base.lora.detach(base.unet)
    is_full, tokenizer = size == "sd2", tiny_tokenizer()
    controlnet: ControlNetModel = place.make(lambda: ControlNetModel(**SIZES[size]))
    dim = REPRESENTATION_DIM if is_full else TINY_REPRESENTATION_DIM
    text_encoder = place.make(lambda: CLIPTextModel(CLIPTextConfig(**TEXT_ENCODERS["2"]))) if is_full else None
    tagger = place.make(ram) if is_full else tiny_tagger().to(place.device, place.dtype)
    pipeline = SeeSRPipeline(
        vae=base.vae,
        unet=base.unet,
        text_encoder=text_encoder or tiny_text_encoder(tokenizer).to(place.device, place.dtype),
        tokenizer=tokenizer,
        controlnet=controlnet,
        adapter=place.make(lambda: SeeSRAdapter.from_hosts(base.unet, controlnet, dim)),
        scheduler=DDPMScheduler(**SCHEDULE, clip_sample=False, steps_offset=1),
        tagger=tagger,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Bare:
    """The calls that a one-step model cannot do without, on tensors that are already there."""

    def __init__(self, pipeline: OneStepPipeline, side: int, place: Place) -> None:
        self.vae, self.unet = pipeline.vae, pipeline.unet
        self.image = place.random(1, 3, side, side).clamp(-1, 1)
        self.latents = place.random(1, 4, side // 8, side // 8)
        assert pipeline.stored_prompt is not None
        self.prompt = pipeline.stored_prompt.embedding
        self.timestep = torch.tensor([1], device=place.device)
        self.stages: dict[str, Callable[[], object]] = {
            "encode": lambda: self.vae.encode(self.image).latent_dist.parameters,
            "UNet": lambda: self.unet(self.latents, self.timestep, self.prompt, return_dict=False)[0],
            "decode": lambda: self.vae.decode(self.latents, return_dict=False)[0],
        }

    def call(self) -> None:
        for stage in self.stages.values():
            stage()


def report(name: str, seconds: list[float], unit: tuple[str, float], more: str = "") -> float:
    """Print a line and return the median."""
    median = statistics.median(seconds)
    print(f"{name:44s} {median * unit[1]:9.2f} {unit[0]}  {more}", flush=True)
    return median


def by_turns(calls: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Measure calls by turns, in the opposite order in every other round, after one of each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            duration = measure(calls[name], device)
            if turn:
                seconds[name].append(duration)
    return seconds


def measure_pisa(pipeline: OneStepPipeline, photo: Image.Image, rounds: int, place: Place) -> None:
    device, unit = place.device, ("ms", 1e3) if place.device.type == "cuda" else ("s", 1.0)
    side = 4 * photo.width
    bare = Bare(pipeline, side, place)

    def call() -> None:
        pipeline(photo, upscale=4, process_size=side, generator=torch.Generator().manual_seed(0))

    kinds: dict[str, float] = {}
    for kind in ("LoRA sets", "fused LoRA sets"):
        if kind == "fused LoRA sets":
            pipeline.fuse_lora()
        memory(device, reset=True)
        call()
        peak = memory(device)
        seconds = by_turns({"bare": bare.call, "pipeline": call}, rounds, device)
        pairs = zip(seconds["pipeline"], seconds["bare"], strict=True)
        overhead = statistics.median(whole / alone for whole, alone in pairs) - 1
        report(f"bare calls, {kind}", seconds["bare"], unit)
        more = f"{100 * overhead:+.1f} % (at most +5 %), peak memory {peak / 1e9:.2f} GB"
        kinds[kind] = report(f"PiSA-SR, {kind}", seconds["pipeline"], unit, more)
    print(f"fused: {kinds['fused LoRA sets'] / kinds['LoRA sets']:.3f} times the time of a call")
    pipeline.unfuse_lora()
    assert pipeline.lora is not None
    pipeline.lora.detach(pipeline.unet)
    seconds = by_turns(bare.stages, rounds, device)
    total = [sum(times) for times in zip(*seconds.values(), strict=True)]
    stages = ", ".join(f"{name} {statistics.median(times) * unit[1]:.2f}" for name, times in seconds.items())
    stock = report("bare calls, stock UNet", total, unit, stages)
    print(f"PiSA-SR: {kinds['LoRA sets'] / stock:.3f} times the stock models' bare calls")


def measure_seesr(pipeline: SeeSRPipeline, photo: Image.Image, steps: int, device: torch.device) -> None:
    times: list[float] = []

    def keep(pipeline: SeeSRPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        return {}

    def call() -> None:
        # A random tagger finds everything: its tags are not used, its representation is.
        arguments = {"upscale": 4, "process_size": 4 * photo.width, "num_inference_steps": steps, "tags": "a photo"}
        pipeline(photo, generator=torch.Generator().manual_seed(0), callback_on_step_end=keep, **arguments)

    memory(device, reset=True)
    seconds = measure(call, device)
    peak = f"peak memory {memory(device) / 1e9:.2f} GB"
    report(f"SeeSR, {steps} steps", [seconds], ("s", 1.0), peak)
    if len(times) > 1:
        step = (times[-1] - times[0]) / (len(times) - 1)
        report("SeeSR, one step", [step], ("s", 1.0), "mean of all but the first")
        if steps != OFFICIAL_STEPS:
            report(
                f"SeeSR, {OFFICIAL_STEPS} steps", [seconds + (OFFICIAL_STEPS - steps) * step], ("s", 1.0), "estimated"
            )


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="sd2")
    parser.add_argument("--side", type=int, default=128, help="of the photo, in pixels (%(default)s)")
    parser.add_argument("--steps", type=int, default=OFFICIAL_STEPS, help="of SeeSR (%(default)s); 0 for none")
    parser.add_argument("--rounds", type=int, default=3, help="of PiSA-SR and of bare calls (%(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--compile", action="store_true", help="compile UNet, encoder and decoder")
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    torch.manual_seed(0)
    place = Place(options.device, DTYPES[options.dtype])
    photo = Image.fromarray(torch.randint(256, (options.side, options.side, 3), dtype=torch.uint8).numpy())
    where = torch.cuda.get_device_name() if place.device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{options.size}, {options.side}² to {4 * options.side}², {options.dtype}, {where}", flush=True)
    base = pisa(options.size, place)
    if options.compile:
        for model in (base.unet, base.vae.encoder, base.vae.decoder):
            model.compile()
    measure_pisa(base, photo, options.rounds, place)
    if options.steps:
        measure_seesr(seesr(options.size, place, base), photo, options.steps, place.device)


if __name__ == "__main__":
    main()
