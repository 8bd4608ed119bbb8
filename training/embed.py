"""Puts trained small models into the package, in float16.

    python training/embed.py --base runs/base --seesr runs/seesr_one_step

`base-small` is a Stable Diffusion pipeline folder; `seesr-small` holds what SeeSR adds to it, and the values
`SeeSRPipeline.__call__` uses by default with this model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionPipeline

from diffusers_sr import SeeSRAdapter, SeeSRPipeline, Tagger
from diffusers_sr.hub import BASE, MODELS

# One step is what the model was fine-tuned for. The small text encoder has little to say, so there is no guidance. The
# wavelet colour fix keeps colours locally.
CALL_DEFAULTS = {
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
    "tile_size": 512,
    "tile_overlap": 128,
    "process_size": 64,
    "color_fix": "wavelet",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="output folder of train_base.py")
    parser.add_argument("--seesr", type=Path, required=True, help="output folder of train_seesr_one_step.py")
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
        scheduler=DDIMScheduler.from_config(base.scheduler.config),
        tagger=Tagger.from_pretrained(options.seesr / "tagger", dtype=torch.float16),
        call_defaults=CALL_DEFAULTS,
    ).save_pretrained(MODELS / "seesr-small")
    for path in MODELS.rglob("*.json"):
        if "_name_or_path" in (config := json.loads(path.read_text())):  # a folder of the machine this ran on
            del config["_name_or_path"]
            path.write_text(json.dumps(config, indent=2) + "\n")
    for name in (BASE, "seesr-small"):
        size = sum(path.stat().st_size for path in (MODELS / name).rglob("*") if path.is_file())
        print(f"{name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
