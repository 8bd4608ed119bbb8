"""Fixtures of CoSeR's tests: a cognitive encoder, and a pipeline with the official files it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from diffusers_sr.coser.cfw import ControllableFeatureWrapping
from diffusers_sr.coser.cognition import Q_FORMER, CognitiveEncoder
from diffusers_sr.coser.convert import SCHEDULE, new_scheduler
from tests.components import TEXT_DIM, components, randomise
from tests.coser import cognitive_encoders
from tests.coser.cognitive_encoders import VISION
from tests.coser.official_files import CONTROLNET, UNET, official_cfw, official_qformer, save_clip
from tests.coser.official_networks import official_networks, random_weights, tiny_networks


@pytest.fixture(scope="module")
def original() -> dict[str, Any]:
    """The components of the pipeline that the official files are made of."""
    torch.manual_seed(0)
    unet, controlnet, adapter = tiny_networks()
    vae = randomise(
        AutoencoderKL(
            block_out_channels=(32, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
        )
    )
    qformer = {**Q_FORMER, "hidden_size": TEXT_DIM, "intermediate_size": 24, "num_hidden_layers": 2}
    encoder = CognitiveEncoder(3, srresnet_channels=8, srresnet_blocks=2, vision_config=VISION, qformer_config=qformer)
    return {
        **{name: components("coser")[name] for name in ("text_encoder", "tokenizer")},
        "unet": unet,
        "controlnet": controlnet,
        "adapter": adapter,
        "vae": vae.eval(),
        "scheduler": new_scheduler(),
        "cognitive_encoder": random_weights(encoder),
        "cfw": random_weights(ControllableFeatureWrapping.from_vae(vae)),
    }


@pytest.fixture(scope="module")
def official(original, tmp_path_factory) -> Path:
    """Folder with everything official: coser.ckpt, qformer.ckpt, cfw.ckpt, and clip/ and base/ as on the Hub."""
    folder = tmp_path_factory.mktemp("official")
    unet, controlnet = official_networks(original["unet"], original["controlnet"], original["adapter"])
    checkpoint = {
        **{UNET + key: tensor for key, tensor in unet.items()},
        **{CONTROLNET + key: tensor for key, tensor in controlnet.items()},
        **{name: torch.zeros(1000) for name in SCHEDULE},
        # Copies of what is frozen, by which nobody should notice that they are wrong.
        **{key: torch.zeros_like(tensor) for key, tensor in official_qformer(original["cognitive_encoder"]).items()},
        "first_stage_model.encoder.conv_in.weight": torch.zeros(8, 3, 3, 3),
        "model_ema.decay": torch.zeros(()),
    }
    progress = {"epoch": 3, "global_step": 20000, "optimizer_states": [{"state": {0: {"step": 1}}}], "callbacks": {}}
    torch.save({"state_dict": checkpoint, **progress}, folder / "coser.ckpt")
    torch.save({"state_dict": official_qformer(original["cognitive_encoder"]), **progress}, folder / "qformer.ckpt")
    torch.save({"state_dict": official_cfw(original["cfw"]), **progress}, folder / "cfw.ckpt")
    save_clip(original["cognitive_encoder"].clip, folder / "clip")
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        original[name].save_pretrained(folder / "base" / name)
    return folder


@pytest.fixture
def encoder() -> CognitiveEncoder:
    """Every parameter random, and large enough for every layer to matter."""
    torch.manual_seed(0)
    encoder = CognitiveEncoder(
        num_queries=5,
        srresnet_channels=4,
        srresnet_blocks=2,
        vision_config=VISION,
        qformer_config=cognitive_encoders.Q_FORMER,
    )
    for name, parameter in encoder.named_parameters():
        torch.nn.init.normal_(parameter, std=0.15 if name.startswith("srresnet") else 0.3)
    return encoder.eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 10, 13, generator=torch.Generator().manual_seed(1))
