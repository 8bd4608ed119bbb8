"""SeeSR on weights in the official layout. Which of three sets INPUTS belongs to is seen from the names in it.

Networks: `<case>.{sample, timestep, encoder_hidden_states, image_encoder_hidden_states, controlnet_cond,
conditioning_scale}`, with `unet/` and `controlnet/` in WEIGHTS_DIR, give `<case>.{cn_down.00…, cn_mid, unet_out,
unet_out_no_controlnet}`.

Tagger: `image_uint8` [B, 3, S, S], with `ram_base.safetensors`, `dape_lora.safetensors` and `config.json` (tags and
thresholds) in WEIGHTS_DIR, gives `dape_{swin_tokens, image_embeds, logits, targets}`, the same with `ram_` for the
tagger without its LoRA, and `merged.<official name>` for each weight the LoRA changes.

Sampling: `<case>.{initial_noise, image, prompt_embeds, negative_prompt_embeds, image_encoder_hidden_states,
lr_latent_unscaled}`, with WEIGHTS_DIR as for the networks and a `cases.json` beside INPUTS or in WEIGHTS_DIR, gives
`<case>.{timesteps, latents_per_step, noise_pred_per_step, final_latents}`. Only in float32, in which the official
loop draws its noise.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file
from tqdm.auto import tqdm

from diffusers_sr.image.tiling import tile_windows
from diffusers_sr.sampling.guidance import Guidance
from diffusers_sr.sampling.loop import sample
from diffusers_sr.sampling.photo import Start
from diffusers_sr.sampling.prediction import GuidedPrediction
from diffusers_sr.seesr.adapter import SeeSRAdapter
from diffusers_sr.seesr.convert import load_adapter
from diffusers_sr.seesr.convert_tagger import official_key, tagger_from_official
from diffusers_sr.seesr.denoiser import SeeSRControl, SeeSRDenoiser
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from diffusers_sr.seesr.tagger import Tagger

Tensors = dict[str, torch.Tensor]


def forward(weights: Path, inputs: Path, dtype: torch.dtype, cases: Path | None) -> Tensors:
    names = input_names(inputs)
    if "image_uint8" in names:
        return tagger_outputs(weights, read_inputs(inputs, "", ["image_uint8"], dtype)["image_uint8"], dtype)
    if any(name.endswith(".initial_noise") for name in names):
        return sampling_outputs(weights, inputs, dtype, cases or find_cases(weights, inputs))
    return network_outputs(weights, inputs, dtype)


def network_outputs(weights: Path, inputs: Path, dtype: torch.dtype) -> Tensors:
    unet, controlnet, adapter = load_networks(weights, dtype)
    needed = [
        "sample",
        "timestep",
        "encoder_hidden_states",
        "image_encoder_hidden_states",
        "controlnet_cond",
        "conditioning_scale",
    ]
    outputs: Tensors = {}
    adapter.attach(unet).attach(controlnet)
    for case in case_names(inputs, ".sample"):
        given = read_inputs(inputs, case, needed, dtype)
        call = (given["sample"], given["timestep"], given["encoder_hidden_states"])
        with adapter.conditioning(representation=given["image_encoder_hidden_states"]):
            down, middle = controlnet(
                *call, given["controlnet_cond"], float(given["conditioning_scale"]), return_dict=False
            )
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            outputs[f"{case}.unet_out"] = unet(*call, **residuals, return_dict=False)[0]
            outputs[f"{case}.unet_out_no_controlnet"] = unet(*call, return_dict=False)[0]
        outputs |= {f"{case}.cn_down.{index:02d}": residual for index, residual in enumerate(down)}
        outputs[f"{case}.cn_mid"] = middle
    return outputs


def tagger_outputs(weights: Path, image: torch.Tensor, dtype: torch.dtype) -> Tensors:
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    ram, dape = load_file(weights / "ram_base.safetensors"), load_file(weights / "dape_lora.safetensors")
    outputs: Tensors = {}
    for prefix, lora in (("dape", dape), ("ram", None)):
        tagger = tagger_from_official(ram, lora, config["tags"], config["thresholds"]).to(dtype)
        pixel_values = tagger.preprocess(image.float() / 255)
        output = tagger(pixel_values)
        given = [set(tags) for tags in tagger.tags(output.logits)]
        outputs[f"{prefix}_swin_tokens"] = tagger.encode(pixel_values)
        outputs[f"{prefix}_image_embeds"] = output.representation
        outputs[f"{prefix}_logits"] = output.logits
        outputs[f"{prefix}_targets"] = torch.tensor(
            [[float(tag in tags) for tag in config["tags"]] for tags in given], dtype=dtype
        )
        if lora is not None:
            changed = {f"{name.removesuffix('.lora_A')}.weight" for name in lora if name.endswith(".lora_A")}
            merged = official_state_dict(tagger)
            outputs |= {f"merged.{name}": merged[name] for name in sorted(changed & merged.keys())}
    return outputs


def sampling_outputs(weights: Path, inputs: Path, dtype: torch.dtype, cases: Path) -> Tensors:
    if dtype != torch.float32:
        raise ValueError("The sampling loops draw their noise in float32: leave out --dtype.")
    unet, controlnet, adapter = load_networks(weights, dtype)
    adapter.attach(unet).attach(controlnet)
    needed = [
        "initial_noise",
        "image",
        "prompt_embeds",
        "negative_prompt_embeds",
        "image_encoder_hidden_states",
        "lr_latent_unscaled",
    ]
    outputs: Tensors = {}
    for case in case_names(inputs, ".initial_noise"):
        options = json.loads(cases.read_text(encoding="utf-8"))[case]
        loop = loop_outputs(unet, controlnet, adapter, read_inputs(inputs, case, needed, dtype), options)
        outputs |= {f"{case}.{name}": tensor for name, tensor in loop.items()}
    return outputs


def loop_outputs(
    unet: UNet2DConditionModel,
    controlnet: ControlNetModel,
    adapter: SeeSRAdapter,
    given: Tensors,
    options: dict[str, Any],
) -> Tensors:
    scheduler = DDPMScheduler.from_config(options["scheduler"])
    scheduler.set_timesteps(options["steps"])
    start = start_latents(given, options, scheduler)
    height, width = start.shape[-2:]
    windows = tile_windows(height, width, options["tile"], options["ov"])

    denoiser = SeeSRDenoiser(unet, controlnet, adapter, options["cscale"])
    control = SeeSRControl(given["image"], adapter.prepare(representation=given["image_encoder_hidden_states"]))
    unit = given["image"].shape[-1] // width
    guidance = Guidance(given["prompt_embeds"], given["negative_prompt_embeds"], options["cfg"])
    prediction = GuidedPrediction(denoiser, guidance, windows, 1, unit)
    prediction.show(control, len(start))

    latents, noises = [start], []

    def keep(step: int, timestep: torch.Tensor, result: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        latents.append(result)
        noises.append(noise)
        return result

    final = sample(
        prediction,
        start,
        scheduler,
        generator=torch.Generator("cpu").manual_seed(options["generator_seed"]),
        after_step=keep,
        progress_bar=partial(tqdm, disable=True),
    )
    return {
        "timesteps": scheduler.timesteps,
        "latents_per_step": torch.stack(latents),
        "noise_pred_per_step": torch.stack(noises),
        "final_latents": final,
    }


def start_latents(given: Tensors, options: dict[str, Any], scheduler: DDPMScheduler) -> torch.Tensor:
    """Make the latents that the pipeline starts from, which takes none of its models."""
    names = ("vae", "text_encoder", "tokenizer", "unet", "controlnet", "adapter", "tagger")
    models: dict[str, Any] = dict.fromkeys(names)
    pipeline = SeeSRPipeline(**models, scheduler=scheduler)
    image_latents = options["vae_scaling_factor"] * given["lr_latent_unscaled"] if options["start"] == "lr" else None
    call: Any = SimpleNamespace(strength=1.0)  # all that is read of it
    return pipeline.prepare_latents(call, Start(given["initial_noise"], image_latents), scheduler)


def load_networks(weights: Path, dtype: torch.dtype) -> tuple[UNet2DConditionModel, ControlNetModel, SeeSRAdapter]:
    unet, controlnet, adapter = load_adapter(weights / "unet", weights / "controlnet")
    return unet.to(dtype), controlnet.to(dtype), adapter.to(dtype)


def official_state_dict(tagger: Tagger) -> Tensors:
    """The tagger's weights by their official names, with queries, keys and values of a Swin block as one again."""
    parts: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for key, tensor in tagger.state_dict().items():
        name, part = official_key(key)
        parts.setdefault(name, []).append((part or 0, tensor))
    return {
        name: torch.cat([tensor for _, tensor in sorted(tensors, key=lambda entry: entry[0])])
        for name, tensors in parts.items()
    }


def find_cases(weights: Path, inputs: Path) -> Path:
    places = [inputs.parent / "cases.json", weights / "cases.json"]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"There is neither {places[0]} nor {places[1]}: give --cases FILE.")


def input_names(inputs: Path) -> list[str]:
    with safe_open(inputs, "pt") as file:
        return list(file.keys())


def case_names(inputs: Path, name: str) -> list[str]:
    return [key.removesuffix(name) for key in input_names(inputs) if key.endswith(name)]


def read_inputs(inputs: Path, case: str, names: list[str], dtype: torch.dtype) -> Tensors:
    prefix = f"{case}." if case else ""
    with safe_open(inputs, "pt") as file:
        tensors = {name: file.get_tensor(prefix + name) for name in names}
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
