"""LoRA sets that are trained: which layers they have, how they begin, and that they are read back."""

from __future__ import annotations

from collections import Counter

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from diffusers_sr.one_step.lora import LoraSets
from diffusers_sr.training.lora import lora_layers, new_set, train_sets, trained_sets
from tests.components import STABLE_DIFFUSION_2, TEXT_DIM, tiny_unet


def test_the_layers_of_stable_diffusion_are_the_official_ones() -> None:
    """PiSA-SR's checkpoint has 94 in the encoder, 148 in the decoder and 16 others, of which 66 are convolutions."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**STABLE_DIFFUSION_2)
    layers = lora_layers(unet)
    part = {"down_blocks": "encoder", "conv_in": "encoder", "up_blocks": "decoder", "conv_out": "decoder"}
    assert Counter(part.get(path.split(".")[0], "others") for path in layers) == {
        "encoder": 94,
        "decoder": 148,
        "others": 16,
    }
    assert Counter(type(unet.get_submodule(path)).__name__ for path in layers) == {"Linear": 192, "Conv2d": 66}
    assert layers[0] == "conv_in" and layers[-1] == "conv_out"
    assert not [path for path in layers if "time_emb" in path or "norm" in path]
    assert lora_layers(unet, "mid_block.") == [path for path in layers if path.startswith("mid_block.")]
    numbers = sum(tensor.numel() for tensor in _on_meta(unet).values())
    assert numbers == 4_055_712  # values of the official checkpoint


def _on_meta(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return new_set(unet, 4)


def test_the_layers_of_the_autoencoders_encoder_are_the_official_ones() -> None:
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    layers = lora_layers(vae, "encoder.")  # OSEDiff's checkpoint has quant_conv besides
    assert Counter(type(vae.get_submodule(path)).__name__ for path in layers) == {"Conv2d": 27, "Linear": 4}


def test_a_new_set_changes_nothing_and_is_drawn_as_published() -> None:
    torch.manual_seed(0)
    unet = tiny_unet().eval()
    inputs = torch.randn(1, 4, 8, 8), torch.tensor(1), torch.randn(1, 7, TEXT_DIM)
    with torch.no_grad():
        before = unet(*inputs).sample
        weights = new_set(unet, 5)
        LoraSets.from_state_dicts({"new": (weights, 8)}).attach(unet)
        assert unet(*inputs).sample.equal(before)
    down = torch.cat([tensor.flatten() for key, tensor in weights.items() if key.endswith("lora_A.weight")])
    assert abs(down.std() - 1 / 5) < 0.005
    assert not any(tensor.any() for key, tensor in weights.items() if key.endswith("lora_B.weight"))


def test_one_of_two_sets_is_trained_and_both_are_read_back() -> None:
    torch.manual_seed(0)
    unet = tiny_unet()
    sets = {name: {key: torch.randn_like(each) for key, each in new_set(unet, 2).items()} for name in ("a", "b")}
    lora = LoraSets.from_state_dicts({"a": (sets["a"], 8), "b": (sets["b"], 3)}).attach(unet)
    train_sets(unet, ("b",))
    trained = {name for name, parameter in unet.named_parameters() if parameter.requires_grad}
    assert trained == {key.removesuffix("weight") + "b.weight" for key in sets["b"]}
    with torch.no_grad():
        for name in trained:
            unet.get_parameter(name).add_(1)
    read = trained_sets(lora, unet)
    assert read.config.sets["a"]["alpha"] == 8 and read.config.sets["b"]["alpha"] == 3
    for key in sets["a"]:
        assert read.lora_state_dict("a")[key].equal(sets["a"][key]), key
    for key, tensor in read.lora_state_dict("b").items():
        assert tensor.equal(unet.get_parameter(key.removesuffix("weight") + "b.weight")), key
