"""Load the pipelines of recordings from their weights in the official layout, through the package's converters."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from diffusers_sr import SeeSRPipeline, XPSRPipeline
from diffusers_sr.pipeline import SuperResolutionPipeline
from diffusers_sr.seesr import convert as seesr
from diffusers_sr.xpsr import convert as xpsr
from tests.parity.pictures import coser_weights

WEIGHTS = "diffusion_pytorch_model.safetensors"
OWN_CONFIG = (
    "use_image_cross_attention",
    "up_use_lowlevel_prompt",
    "mid_use_lowlevel_prompt",
    "down_use_lowlevel_prompt",
)


def load_pipeline(method: str, weights: Path) -> SuperResolutionPipeline:
    """Load the pipeline of a method in float32.

    Args:
        method: "seesr", "xpsr" or "coser".
        weights: folder in the official layout, with weights in any type; beside its parent's a folder `shared/vae`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if method == "coser":
            pipeline = coser_weights.load(weights, folder)
        else:
            in_float32(weights, folder / "official")
            pipeline = load_converted(method, folder / "official", weights.parents[1] / "shared", folder / "converted")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_converted(method: str, official: Path, shared: Path, converted: Path) -> SuperResolutionPipeline:
    networks = official / method
    own_weights = {"seesr": ".image_attentions.", "xpsr": ".pixel_attentions."}[method]
    in_float32(shared / "vae", official / "base" / "vae")
    write_base_unet(networks / "unet", official / "base" / "unet", own_weights)
    if method == "seesr":
        seesr.convert(
            networks / "unet",
            networks / "controlnet",
            converted,
            ram=official / "ram.safetensors",
            dape=official / "dape.safetensors",
            ram_tags=official / "ram_tags",
            base=official / "base",
        )
        return SeeSRPipeline.from_pretrained(converted)
    xpsr.convert(networks / "unet", networks / "controlnet", converted, base=official / "base")
    return XPSRPipeline.from_pretrained(converted)


def in_float32(source: Path, target: Path) -> None:
    """Copy a folder, with the weights in it in float32."""
    for path in source.rglob("*"):
        copy = target / path.relative_to(source)
        if path.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix != ".safetensors":
                shutil.copy(path, copy)
                continue
            tensors = {
                name: tensor.float() if tensor.is_floating_point() else tensor
                for name, tensor in load_file(path).items()
            }
            save_file(tensors, copy, metadata={"format": "pt"})


def write_base_unet(official: Path, base: Path, own_weights: str) -> None:
    """Write the Stable Diffusion that the network was trained on: what is in it besides the method's own."""
    base.mkdir(parents=True)
    config = json.loads((official / "config.json").read_text(encoding="utf-8"))
    stock = {name: value for name, value in config.items() if name not in OWN_CONFIG}
    (base / "config.json").write_text(json.dumps(stock), encoding="utf-8")
    tensors = {name: tensor for name, tensor in load_file(official / WEIGHTS).items() if own_weights not in name}
    save_file(tensors, base / WEIGHTS, metadata={"format": "pt"})
