"""Folders of tiny models for the routes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from diffusers import StableDiffusionPipeline

from diffusers_sr import CoSeRPipeline, SeeSRPipeline
from tests.components import components, tiny_image

CALL = {
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
    "process_size": 16,
    # Damage can make a picture of millions of pixels, which tiny models enlarge quickly in large tiles.
    "tile_size": 1024,
    "tile_overlap": 64,
}


class Models(NamedTuple):
    """Their folders, and one of whole photos."""

    seesr: str
    coser: str
    base: str
    tagger: str
    photos: str


def save_models(folder: Path) -> Models:
    """Save the models in a folder."""
    parts = components("seesr")
    SeeSRPipeline(**parts, call_defaults=CALL).save_pretrained(folder / "seesr")
    CoSeRPipeline(**components("coser"), call_defaults=CALL).save_pretrained(folder / "coser")
    stock = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    without = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**stock, **without).save_pretrained(folder / "base")
    (folder / "photos").mkdir()
    tiny_image().save(folder / "photos" / "photo.png")
    names = ("seesr", "coser", "base", "seesr/tagger", "photos")
    return Models(*(str(folder / name) for name in names))
