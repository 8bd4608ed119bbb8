"""`PASDPipeline` has defaults of its own, and earlier folders of PASD's weights keep their class."""

import json

import torch

from diffusers_sr import PASDPipeline
from diffusers_sr.hub import load_pipeline
from diffusers_sr.xpsr.pipeline import XPSRPipeline
from tests.components import components, inputs


def run(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return torch.as_tensor(pipeline(**inputs("pasd")).images)


def test_defaults_are_those_of_the_official_script():
    defaults = PASDPipeline(**components("pasd")).config.call_defaults
    assert defaults == {
        "negative_prompt": "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed",
        "num_inference_steps": 20,
        "guidance_scale": 9.0,
        "controlnet_conditioning_scale": 1.0,
        "start_point": "lr",
        "tile_size": 2560,
        "tile_overlap": 64,
        "process_size": 768,
        "color_fix": "wavelet",
        "captioner": None,
        "quality_prompt": "clean, high-resolution, 8k",
        "caption_overflow": "shorten",
        "added_noise_level": 900,
    }


def test_folders_of_earlier_versions_are_still_xpsrs(tmp_path):
    """PASD's weights had XPSR's class, and PASD's defaults as the folder's own."""
    pasd = PASDPipeline(**components("pasd"))
    XPSRPipeline(**components("pasd"), call_defaults=pasd.config.call_defaults).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": "XPSRPipeline"}))
    earlier = load_pipeline(str(tmp_path), method="xpsr")
    assert type(earlier) is XPSRPipeline
    assert (run(earlier) - run(pasd)).abs().max() < 1e-5  # weights of a file lie elsewhere in memory
