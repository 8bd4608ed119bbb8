"""Puts trained small models into the package, in float16.

    python training/embed.py --base runs/base --seesr runs/seesr_adversarial --coser runs/coser_adversarial

`base-small` is a Stable Diffusion pipeline folder; the others hold what a method adds to it, and the values that its
pipeline's `__call__` uses by default with this model. What is not given stays as it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionPipeline

from diffusers_sr import (
    CasSRAdapter,
    CasSRPipeline,
    CognitiveEncoder,
    ControllableFeatureWrapping,
    CoSeRAdapter,
    CoSeRPipeline,
    LatentControlNetModel,
    SCEditAdapter,
    SeeSRAdapter,
    SeeSRPipeline,
    SuperResolutionPipeline,
    Tagger,
    XPSRAdapter,
    XPSRPipeline,
)
from diffusers_sr.hub import BASE, BASE_COMPONENTS, MODELS

# One step is what the models were fine-tuned for. The small text encoder has little to say, so there is no guidance.
# The wavelet colour fix keeps colours locally.
CALL_DEFAULTS: dict[str, Any] = {
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
    "tile_size": 512,
    "tile_overlap": 128,
    "process_size": 64,
    "color_fix": "wavelet",
}
METHODS: dict[str, tuple[type[SuperResolutionPipeline], dict[str, Any], dict[str, Any]]] = {
    "seesr": (
        SeeSRPipeline,
        {"controlnet": ControlNetModel, "adapter": SeeSRAdapter, "tagger": Tagger},
        CALL_DEFAULTS,
    ),
    "coser": (
        CoSeRPipeline,
        {
            "controlnet": LatentControlNetModel,
            "adapter": CoSeRAdapter,
            "cognitive_encoder": CognitiveEncoder,
            "cfw": ControllableFeatureWrapping,
        },
        {**CALL_DEFAULTS, "reference_guidance_scale": 1.0, "cfw_weight": 1.0},
    ),
    "cassr": (
        CasSRPipeline,
        {"controlnet": ControlNetModel, "adapter": CasSRAdapter, "activation": SCEditAdapter},
        {**CALL_DEFAULTS, "activation_guidance_scale": 1.0},
    ),
    # It was trained without a quality prompt, on measured low-level prompts. The pixel attention of the last level is
    # of all pixels to all of them, which large tiles make slow.
    "xpsr": (
        XPSRPipeline,
        {"controlnet": ControlNetModel, "adapter": XPSRAdapter},
        {**CALL_DEFAULTS, "captioner": "measured", "quality_prompt": "", "tile_size": 256, "tile_overlap": 64},
    ),
}


def embed(method: str, trained: Path) -> None:
    """Write the models of one method, from the output folder of its last training stage."""
    pipeline_class, models, call_defaults = METHODS[method]
    parts = {name: kind.from_pretrained(trained / name, dtype=torch.float16) for name, kind in models.items()}
    scheduler = DDIMScheduler.from_pretrained(MODELS / BASE, subfolder="scheduler")
    without_base = dict.fromkeys(BASE_COMPONENTS)
    pipeline_class(**without_base, **parts, scheduler=scheduler, call_defaults=call_defaults).save_pretrained(
        MODELS / f"{method}-small"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="output folder of train_base.py")
    for method in METHODS:
        parser.add_argument(f"--{method}", type=Path, help=f"output folder of train_{method}_adversarial.py")
    options = parser.parse_args()

    if options.base is not None:
        base = StableDiffusionPipeline.from_pretrained(options.base, dtype=torch.float16, safety_checker=None)
        base.save_pretrained(MODELS / BASE)
    for method in METHODS:
        if (trained := getattr(options, method)) is not None:
            embed(method, trained)
    for path in MODELS.rglob("*.py"):  # what other places need to load a pipeline; the package holds the classes
        path.unlink()
    for path in MODELS.rglob("*.json"):
        if "_name_or_path" in (config := json.loads(path.read_text())):  # a folder of the machine this ran on
            del config["_name_or_path"]
            path.write_text(json.dumps(config, indent=2) + "\n")
    for folder in sorted(MODELS.iterdir()):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder.name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
