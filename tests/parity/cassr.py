"""SCEdit's CSC-Tuners, CasSR's image activation, on weights in the official layout.

`hint` `[B, 3, H, W]` in [0, 1] and the skip connections `skip_0…` of an encoder, with `input_down_flag`, `scale` and
`control_scale` of a `config.json`, give `pre_hint`, `dense_hint_0…` and `skip_new_0…`, numbered as the encoder makes
them.
"""

from __future__ import annotations

from typing import Any

from diffusers_sr.cassr.convert import scedit_from_official
from tests.parity.arrays import Tensors

SKIP = "skip_"
INPUTS = ("hint", f"{SKIP}0")
CONFIG = ("input_down_flag", "scale", "control_scale")


def tuner_outputs(state: Tensors, given: Tensors, config: dict[str, Any]) -> Tensors:
    downsamples = [index for index, flag in enumerate(config["input_down_flag"]) if flag]
    adapter = scedit_from_official(state, downsamples=downsamples)
    hints = adapter.embed(given["hint"])
    outputs = {"pre_hint": adapter.hint_embedding(given["hint"])}
    outputs |= {f"dense_hint_{index}": hint for index, hint in enumerate(hints)}
    with adapter.conditioning(hints=hints, scale=config["scale"] * config["control_scale"]):
        for site, options in adapter.sites("unet").items():
            edited = adapter("edit_skips", site, [given[f"{SKIP}{index}"] for index in options["skips"]])
            outputs |= {f"skip_new_{index}": skip for index, skip in zip(options["skips"], edited, strict=True)}
    return outputs
