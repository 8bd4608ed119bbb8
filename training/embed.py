"""Puts trained small models into the package, in float16.

    python training/embed.py --base runs/base --seesr runs/seesr

`base-small` is a Stable Diffusion pipeline folder; `seesr-small` holds what SeeSR adds to it, and the values
`SeeSRPipeline.__call__` uses by default with this model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import ControlNetModel, DDPMScheduler, StableDiffusionPipeline

from diffusers_sr import SeeSRAdapter, SeeSRPipeline, Tagger
from diffusers_sr.hub import BASE, MODELS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="output folder of train_base.py")
    parser.add_argument("--seesr", type=Path, required=True, help="output folder of train_seesr.py")
    parser.add_argument("--call-defaults", type=json.loads, default={}, help="JSON object of arguments by name")
    options = parser.parse_args()

    base = StableDiffusionPipeline.from_pretrained(options.base, dtype=torch.float16, safety_checker=None)
    base.save_pretrained(MODELS / BASE)
    SeeSRPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=None,
        controlnet=ControlNetModel.from_pretrained(options.seesr / "controlnet", dtype=torch.float16),
        adapter=SeeSRAdapter.from_pretrained(options.seesr / "adapter", dtype=torch.float16),
        scheduler=DDPMScheduler.from_config(base.scheduler.config),
        tagger=Tagger.from_pretrained(options.seesr / "tagger", dtype=torch.float16),
        call_defaults=options.call_defaults,
    ).save_pretrained(MODELS / "seesr-small")
    for name in (BASE, "seesr-small"):
        size = sum(path.stat().st_size for path in (MODELS / name).rglob("*") if path.is_file())
        print(f"{name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
