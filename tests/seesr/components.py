"""The tiny components that are SeeSR's own, and the arguments of a call that only it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from diffusers_sr.seesr.adapter import SeeSRAdapter
from diffusers_sr.seesr.tagger import Tagger
from tests.components import randomise, tiny_controlnet, tiny_image

REPRESENTATION_DIM = 16
TAGS = ("bridge", "cat", "city", "flower", "mountain", "river", "sky", "tree")

DEFAULT_TILE_SIZE = 768
OWN_ARGUMENTS = [
    "tags",
    "representation",
    "psr_weight",
]


def parts(unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, Any]:
    controlnet = tiny_controlnet()
    adapter = randomise(SeeSRAdapter.from_hosts(unet, controlnet, REPRESENTATION_DIM))
    return {"controlnet": controlnet, "adapter": adapter, "tagger": tiny_tagger()}


def inputs() -> dict[str, Any]:
    return {"tags": "cat, tree"}


def tiny_tagger() -> Tagger:
    """A tagger of 32×32 pixels with 17 tokens, which gives some tags to `tiny_image()`."""
    tagger = randomise(
        Tagger(
            tags=TAGS,
            thresholds=[0.5] * len(TAGS),
            image_size=32,
            embed_dim=8,
            depths=(1, 1),
            num_heads=(2, 4),
            window_size=4,
            representation_dim=REPRESENTATION_DIM,
            head_hidden_size=16,
            head_num_heads=4,
            head_intermediate_size=32,
            head_num_layers=2,
        )
    )
    for parameter in tagger.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=1.5 / parameter.shape[1] ** 0.5)
    nn.init.normal_(tagger.tagging_head.label_embed, std=3)  # the tags have to differ more than rounding errors do
    with torch.no_grad():
        image = torch.from_numpy(np.array(tiny_image())).permute(2, 0, 1)[None] / 255
        tagger.tagging_head.classifier.bias -= tagger.eval()(tagger.preprocess(image)).logits.mean()
    return tagger
