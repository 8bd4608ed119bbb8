"""A case of the one-step vectors: its settings, pictures, prompt and the official size rule."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from transformers import CLIPTextModel, CLIPTokenizer

from diffusers_sr.image.color import adain, wavelet
from diffusers_sr.texts import encode_texts

Tensors = dict[str, torch.Tensor]

INPUTS = (
    "lr",
    "input",
    "prompt_ids",
    "prompt_embeds",
    "latent_noise",
    "noise",
    "image",
    "initial_noise",
    *(f"representation.{index}" for index in range(4)),
    *(f"renoise.{index}" for index in range(3)),
)


@dataclass(frozen=True)
class Case:
    """Inputs as they are stored, and settings.

    Args:
        dials: λ_pix and λ_sem by the end of the outputs' names, for a file that holds one picture with many dials.
    """

    given: Tensors
    settings: dict[str, Any]
    dials: dict[str, tuple[float, float]]

    def tensor(self, name: str) -> torch.Tensor:
        """Give an input that there has to be.

        Raises:
            ValueError: if there is none.
        """
        if name not in self.given:
            raise ValueError(f"INPUTS lack {name!r}, they have {sorted(self.given)}.")
        return self.given[name]


def read_case(inputs: Path, cases: Path | None) -> Case:
    """Read the inputs of `case_<name>.safetensors`, and the settings of this name, or else those of `plain`."""
    with safe_open(inputs, "pt") as file:
        given = {name: file.get_tensor(name) for name in INPUTS if name in file.keys()}  # noqa: SIM118
    every = json.loads((cases or inputs.with_name("cases.json")).read_text(encoding="utf-8"))
    by_name = {**every, **every.get("cases", {})}
    name = inputs.stem.removeprefix("case_")
    general = {key: value for key, value in every.items() if not isinstance(value, dict)}
    dials = {}
    if name not in by_name:
        dials = {
            key.removeprefix("dial_"): (value["lambda_pix"], value["lambda_sem"])
            for key, value in by_name.items()
            if key.startswith("dial_")
        }
    return Case(given, {**general, **by_name.get(name, by_name.get("plain", {}))}, dials)


def picture(case: Case) -> np.ndarray[Any, Any]:
    """Give the picture that the official script passes on, `[H, W, 3]`, or make it as it does.

    Small pictures are enlarged first, the result is four times as large, and a rest of less than 8 pixels is squeezed
    away: sides are not restored. The pipeline pads instead.
    """
    if "input" in case.given:
        return case.given["input"].numpy()
    photo = Image.fromarray(case.tensor("lr").numpy())
    factor = case.settings.get("upscale", 4)
    smallest = case.settings.get("process_size", 512) // factor
    if min(photo.size) < smallest:
        scale = smallest / min(photo.size)
        photo = photo.resize((int(scale * photo.width), int(scale * photo.height)))
    photo = photo.resize((photo.width * factor, photo.height * factor))
    width, height = photo.width - photo.width % 8, photo.height - photo.height % 8
    return np.asarray(photo.resize((width, height), Image.Resampling.LANCZOS))


def prompt_embeds(case: Case, base: Path, default: str) -> torch.Tensor:
    """Give the embedding of the prompt, or encode its tokens or its text in float32."""
    if "prompt_embeds" in case.given:
        return case.given["prompt_embeds"]
    text_encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder").eval()
    if "prompt_ids" in case.given:
        embeds: torch.Tensor = text_encoder(case.given["prompt_ids"])[0]
        return embeds
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    return encode_texts([case.settings.get("prompt", default)], tokenizer, text_encoder, text_encoder.device)


def as_bytes(image: torch.Tensor) -> torch.Tensor:
    """Turn `[1, 3, H, W]` in [0, 1] into `[H, W, 3]` bytes as the official scripts do: cut off, not rounded."""
    return image[0].mul(255).byte().permute(1, 2, 0).contiguous()


def pictures(decoded: torch.Tensor, source: np.ndarray[Any, Any], case: Case, is_restored: bool) -> Tensors:
    """Give the picture before and after each colour fix.

    Args:
        is_restored: whether the last resize, after a small picture was enlarged, is not lost.
    """
    output = as_bytes((decoded * 0.5 + 0.5).clip(0, 1))
    pixels, reference = (
        image.permute(2, 0, 1)[None].float() / 255 for image in (output, torch.from_numpy(source.copy()))
    )
    outputs = {
        "output": output,
        "output_adain": as_bytes(adain(pixels, reference)),
        "output_wavelet": as_bytes(wavelet(pixels, reference)),
    }
    final = outputs["output_adain"]
    if is_restored and "lr" in case.given:
        height, width = case.given["lr"].shape[:2]
        factor = case.settings.get("upscale", 4)
        if min(height, width) < case.settings.get("process_size", 512) // factor:
            resized = Image.fromarray(final.numpy()).resize((int(factor * width), int(factor * height)))
            final = torch.from_numpy(np.array(resized))
    outputs["final"] = final.clone()
    return outputs
