"""CFW's weights out of StableSR's autoencoder."""

from __future__ import annotations

import pytest
import torch

from diffusers_sr.coser.cfw import ControllableFeatureWrapping
from diffusers_sr.coser.convert_cfw import cfw_state_dict
from tests.coser.cfw_models import Models


@pytest.fixture
def models() -> Models:
    return Models()


def official_shapes(level: int, channels: int, num_rrdbs: int = 2, growth: int = 32) -> dict[str, tuple[int, ...]]:
    """StableSR's keys of a fusion layer, with the shapes of their weights."""
    weights = {
        "encode_enc_1.norm1": (2 * channels,),
        "encode_enc_1.conv1": (channels, 2 * channels, 3, 3),
        "encode_enc_1.norm2": (channels,),
        "encode_enc_1.conv2": (channels, channels, 3, 3),
        "encode_enc_1.conv_out": (channels, 2 * channels, 1, 1),
        "encode_enc_3.norm1": (channels,),
        "encode_enc_3.conv1": (channels, channels, 3, 3),
        "encode_enc_3.norm2": (channels,),
        "encode_enc_3.conv2": (channels, channels, 3, 3),
    }
    for index in range(num_rrdbs):
        for block in ("rdb1", "rdb2", "rdb3"):
            for conv in range(5):
                shape = (growth if conv < 4 else channels, channels + conv * growth, 3, 3)
                weights[f"encode_enc_2.{index}.{block}.conv{conv + 1}"] = shape
    return {
        f"decoder.fusion_layer_{level}.{name}.{kind}": shape if kind == "weight" else shape[:1]
        for name, shape in weights.items()
        for kind in ("weight", "bias")
    }


def official(prefix: str = "") -> dict[str, torch.Tensor]:
    """StableSR's autoencoder, without memory for its weights."""
    shapes = official_shapes(1, 256) | official_shapes(2, 512) | {"decoder.conv_in.weight": (512, 4, 3, 3)}
    return {prefix + key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_official_weights(prefix: str) -> None:
    with torch.device("meta"):
        cfw = ControllableFeatureWrapping()
    cfw.load_state_dict(cfw_state_dict(official(prefix)))
    assert sum(parameter.numel() for parameter in cfw.parameters()) > 10e6


def test_official_weights_go_to_their_own_level(models: Models) -> None:
    shapes = official_shapes(1, 16, 1, 4) | official_shapes(2, 24, 1, 4)
    weights = {key: torch.randn(shape) for key, shape in shapes.items()}
    state_dict = cfw_state_dict(weights, models.cfw)
    models.cfw.load_state_dict(state_dict)
    for level in (1, 2):
        key = f"decoder.fusion_layer_{level}.encode_enc_2.0.rdb2.conv3.weight"
        assert torch.equal(models.cfw.fusion_layers[str(level)].rrdbs[0].rdb2.conv3.weight, weights[key])
    assert len({id(tensor) for tensor in state_dict.values()}) == len(weights)


def test_official_weights_with_wrong_keys() -> None:
    weights = official()
    del weights["decoder.fusion_layer_1.encode_enc_1.norm1.weight"]
    del weights["decoder.fusion_layer_2.encode_enc_2.1.rdb3.conv5.bias"]
    weights["decoder.fusion_layer_3.encode_enc_1.norm1.weight"] = torch.zeros(8)
    weights["decoder.fusion_layer_2.encode_enc_3.conv1.weight"] = torch.zeros(8, 8, 3, 3)
    with pytest.raises(ValueError, match="The keys of the fusion layers are not") as error:
        cfw_state_dict(weights)
    for line in (
        "2 missing:\n  decoder.fusion_layer_",
        "  decoder.fusion_layer_1.encode_enc_1.norm1.weight [512]",
        "  decoder.fusion_layer_2.encode_enc_2.1.rdb3.conv5.bias [512]",
        "1 unexpected:\n  decoder.fusion_layer_3.encode_enc_1.norm1.weight [8]",
        "1 mis-shaped:\n  decoder.fusion_layer_2.encode_enc_3.conv1.weight is [8, 8, 3, 3], expected [512, 512, 3, 3]",
    ):
        assert line in str(error.value)


def test_a_file_without_fusion_layers() -> None:
    with pytest.raises(ValueError, match="156 missing"):
        cfw_state_dict({"decoder.conv_in.weight": torch.zeros(1)})
